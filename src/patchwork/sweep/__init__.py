"""Search for good settings: the file of a W&B sweep, without a server. `command.py` is where it begins."""
