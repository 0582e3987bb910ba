"""Draw with a trained generator: `python generate.py run=FOLDER classes=[3,7] n=16`, see `patchwork.generate`."""

import sys

if __name__ == "__main__":
    from patchwork.cli import call
    from patchwork.generate import generate

    sys.exit(call(generate, sys.argv[1:]))
