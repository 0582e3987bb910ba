"""`patchwork <command> key=value …`, also as `python -m patchwork`; each command is imported when it is called."""

import sys
from importlib import import_module

import patchwork  # its import starts the clock
from patchwork.core.signals import exit_at_once, handle_stop_signals
from patchwork.core.terminal import robust_output

COMMANDS = {
    "train": "train a task, or resume a run",
    "evaluate": "measure a run, or several as an ensemble, on the test split",
    "audit": "check that a model does what it claims",
    "generate": "generate images with a trained model",
    "predict": "write the predictions of a run as a table",
    "runs": "list runs, newest first",
    "sweep": "search for hyperparameters",
    "convert": "convert MNIST from other forms to the files that are read here",
    "icons": "write the icon data set as PNG files",
    "explain": "say what a key, a group or a choice is",
}
SYNONYMS = {  # names from other tools
    "fit": "train",
    "infer": "predict",
    "ls": "runs",
    "list": "runs",
    "resume": "train resume=RUN_DIR",
    "sample": "generate",
    "search": "sweep",
    "test": "evaluate",
    "tune": "sweep",
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


def main(args: list[str] | None = None) -> None:
    """Run a command: that of these arguments, by default those of this process."""
    with robust_output(), handle_stop_signals(exit_at_once):
        run(sys.argv[1:] if args is None else args)


def run(args: list[str]) -> None:
    name, *args = args or ["--help"]
    if name == "help":
        name, args = (args[0], ["--help"]) if args else ("--help", [])
    if name in ("-h", "--help"):
        print(USAGE)
    elif "--version" in (name, *args):
        print(f"patchwork {patchwork.__version__}")
    elif name in COMMANDS:
        args = ["--help"] if args == ["help"] else args
        sys.exit(import_module(f"patchwork.commands.{name}").command(args))
    else:
        print(f"patchwork: {unknown_command(name)}", file=sys.stderr)
        sys.exit(2)


def unknown_command(name: str) -> str:
    """Return the error of a command that does not exist, with the one that was meant."""
    from patchwork.core.suggest import closest

    meant = SYNONYMS.get(name) or closest(name, COMMANDS, cutoff=0.65)
    if "=" in name or name.startswith("-"):
        meant = f"train {name}"
    hint = f" (did you mean patchwork {meant}?)" if meant else ""
    return f"unknown command {name}{hint}; available: {', '.join(COMMANDS)}"


if __name__ == "__main__":
    main()
