"""Search for good settings without a server: `python sweep.py sweeps/seq2seq.yaml count=20 jobs=2`."""

import sys

if __name__ == "__main__":
    import patchwork.lightning  # noqa: F401
    from patchwork.cli import guarded
    from patchwork.sweep.command import command

    sys.exit(guarded(lambda: command(sys.argv[1:])))
