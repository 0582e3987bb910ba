"""`patchwork <command> key=value …`, also as `python -m patchwork`; each command is imported when it is called."""

import sys
from importlib import import_module

import patchwork  # its import starts the clock

COMMANDS = {
    "train": "train a task, or resume a run",
    "evaluate": "measure a run, or several as an ensemble, on the test split",
    "audit": "check that a model does what it claims",
    "generate": "generate images with a trained model",
    "predict": "write the predictions of a run as a table",
    "sweep": "search for hyperparameters",
    "icons": "write the icon data set as PNG files",
}
USAGE = "\n".join(
    [
        "usage: patchwork <command> [key=value …]",
        "",
        *(f"  {name:<10} {summary}" for name, summary in COMMANDS.items()),
        "",
        "patchwork <command> --help describes one.",
    ]
)


def main() -> None:
    name, *args = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE)
    elif name == "--version":
        print(f"patchwork {patchwork.__version__}")
    elif name in COMMANDS:
        sys.exit(import_module(f"patchwork.commands.{name}").command(args))
    else:
        print(f"patchwork: unknown command {name}; available: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
