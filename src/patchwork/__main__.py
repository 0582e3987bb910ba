"""`patchwork <command> key=value …`, also as `python -m patchwork`; each command is imported when it is called."""

import sys
from importlib import import_module

import patchwork  # its import starts the clock
from patchwork.commands import COMMANDS
from patchwork.core.signals import exit_at_once, handle_stop_signals
from patchwork.core.terminal import robust_output

OPTIONS = ("--help", "--version")
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
        args = ["--help", *args[1:]] if args[:1] == ["help"] else args
        sys.exit(import_module(f"patchwork.commands.{name}").command(args))
    else:
        print(f"patchwork: {unknown_command(name)}", file=sys.stderr)
        sys.exit(2)


def unknown_command(name: str) -> str:
    """Return the error of a command that does not exist, with the one that was meant."""
    from patchwork.core.hydra_flags import is_flag
    from patchwork.core.suggest import closest

    meant = SYNONYMS.get(name) or closest(name, COMMANDS, cutoff=0.65)
    if name.startswith("-"):
        meant = closest(name, OPTIONS) or (f"train {name}" if is_flag(name) else None)
    elif "=" in name:
        meant = f"train {name}"
    hint = f" (did you mean patchwork {meant}?)" if meant else ""
    return f"unknown command {name}{hint}; available: {', '.join(COMMANDS)}"


if __name__ == "__main__":
    main()
