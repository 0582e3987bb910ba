"""Run a command: the one place for signals, warnings, one-line errors, exit codes and the help of keyword commands."""

import inspect
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

from patchwork.core.cpus import limit_threads
from patchwork.core.errors import Interrupted, PatchworkError, PatchworkWarning, as_user_error, one_line
from patchwork.core.job import update_job_status
from patchwork.core.overrides import parse_call
from patchwork.core.rank import is_rank_zero
from patchwork.core.schema import format_value

HELP = {"-h", "--help"}


def run_command(name: str, action: Callable[[], int | None]) -> int:
    """Do what a command does and return its exit code; an error that a user can correct is printed in one line."""
    handlers = {signum: signal.signal(signum, interrupt) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        limit_threads()
        with patch.object(warnings, "showwarning", show_warning):
            return action() or 0
    except Interrupted as error:
        return print_error(name, error)
    except Exception as error:
        expected = as_user_error(error)
        if expected is not None:
            return print_error(name, expected)
        traceback.print_exc()  # a bug
        update_job_status(error=f"{type(error).__name__}: {one_line(error)}")
        return 1
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def call_command(name: str, function: Callable[..., None], args: list[str]) -> int:
    """Call a function with the keyword arguments that `key=value` strings give it, and return the exit code."""
    if HELP & {*args}:
        print(format_help(f"patchwork {name} key=value …", function))
        return 0
    return run_command(name, lambda: function(**parse_call(function, args)))


def interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)


def print_error(name: str, error: PatchworkError | Interrupted) -> int:
    """Print an error after the name of the program, note it in the job's status file, and return its exit code."""
    if is_rank_zero():
        script = Path(sys.argv[0]).name
        print(f"{script if script == 'train.py' else f'patchwork {name}'}: {one_line(error)}", file=sys.stderr)
        update_job_status(error=one_line(error))
    return error.exit_code


def show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print a warning of this package in one line; those of libraries are for developers and are left out."""
    if issubclass(category, PatchworkWarning) and is_rank_zero():
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def format_help(usage: str, function: Callable[..., Any]) -> str:
    """Format the help of a command: its docstring, and each key with its default and its sentence."""
    summary, _, rest = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:\n")
    sentences = dict(re.findall(r"^ {4}(\w+): ((?:.+)(?:\n {8}.+)*)", rest.partition("\n\n")[0], re.MULTILINE))
    lines = [summary.strip(), "", f"  {usage}", ""]
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            required = parameter.default is parameter.empty
            key = f"{parameter.name}=…" if required else f"{parameter.name}={format_value(parameter.default)}"
            lines.append(f"  {key:<24} {' '.join(sentences.get(parameter.name, '').split())}".rstrip())
    return "\n".join(lines)
