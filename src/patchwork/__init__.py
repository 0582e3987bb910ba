"""Patchwork: a laboratory for small transformers on images that fit in your head."""

import time

STARTED = time.time()  # when the command began, as near as Python can tell: the first import of every command
