"""The flags of Hydra's command line, as Hydra's own parser has them."""

from functools import cache
from itertools import pairwise
from pathlib import Path


@cache
def flags() -> dict[str, bool]:
    """Return all flags, short and long ones, and whether each takes a value."""
    from hydra._internal.utils import get_args_parser

    actions = get_args_parser()._actions
    return {flag: action.nargs != 0 for action in actions for flag in action.option_strings}


def takes_value(arg: str) -> bool:
    """Return whether an argument is a flag whose value is the next argument."""
    return flags().get(arg, False)


def is_flag(arg: str) -> bool:
    """Return whether an argument is a flag, or the beginning of a long one, with or without `=value`."""
    name = arg.partition("=")[0]
    return name in flags() or (name.startswith("--") and any(flag.startswith(name) for flag in flags()))


def override_args(args: list[str]) -> list[str]:
    """Return the arguments that are neither flags nor their values."""
    pairs = zip(["", *args], args, strict=False)
    return [arg for before, arg in pairs if not takes_value(before) and not arg.startswith("-")]


def config_dirs(args: list[str]) -> list[Path]:
    """Return the directories that `--config-dir` adds."""
    added = [arg for before, arg in pairwise(args) if before in ("--config-dir", "-cd")]
    added += [arg.partition("=")[2] for arg in args if arg.startswith("--config-dir=")]
    return [path for path in map(Path, added) if path.is_dir()]
