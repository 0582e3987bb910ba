"""Train a task: the same as `patchwork train`, for `wandb agent`, torchrun and srun."""

from patchwork.commands.train import main

if __name__ == "__main__":
    main()
