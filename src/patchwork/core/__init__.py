"""What every package uses: errors, the schema of configurations, atomic files. Importing it imports no torch."""
