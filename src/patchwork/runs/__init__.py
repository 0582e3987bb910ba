"""A run directory: compose a configuration, build it, train it, load it again, predict with it."""
