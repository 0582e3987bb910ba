"""Train a task: compose → check → build → fit → test → report. `python train.py --help` lists what can be set."""

from omegaconf import DictConfig

from patchwork.cli import command


@command("train")
def main(config: DictConfig) -> None:
    from patchwork.run import train

    train(config)


if __name__ == "__main__":
    main()
