"""Figures of a run: predictions in the terminal and as a sheet, and the curves of its training."""
