"""The commands of `patchwork`, one module each, with a function `command(args)` that returns the exit code."""
