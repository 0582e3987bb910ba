"""What every package uses: errors, the schema of configurations, atomic files, processes. It imports no torch."""
