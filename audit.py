"""Probe a task and its model, trained or not: `python audit.py task=sum model=fully_connected`, or `run=FOLDER`."""

from omegaconf import DictConfig

from patchwork.cli import command


@command("audit")
def main(config: DictConfig) -> None:
    from patchwork.audit import audit

    audit(config)


if __name__ == "__main__":
    main()
