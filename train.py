"""Train a task: the same as `patchwork train`, for `wandb agent`, torchrun and srun."""

import sys

from patchwork.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
