"""Statistics of results: intervals, tests over independent units, power. NumPy and SciPy; nothing of this package."""
