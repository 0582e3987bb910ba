"""Run a command: the one place for signals, warnings, one-line errors, exit codes and the help of keyword commands."""

import inspect
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

from patchwork.commands import FUNCTIONS
from patchwork.core.allowed import format_value
from patchwork.core.cpus import limit_threads
from patchwork.core.docstrings import argument_sentences
from patchwork.core.errors import (
    ConfigError,
    Interrupted,
    PatchworkError,
    PatchworkWarning,
    UnknownKeyError,
    as_user_error,
    one_line,
)
from patchwork.core.job import JOB, update_job_status
from patchwork.core.overrides import format_override, parse_call, shell_command, takes_containers
from patchwork.core.paths import exists, expand_home
from patchwork.core.rank import is_rank_zero
from patchwork.core.schema import SCALAR_KEYS, TARGET_PACKAGES, signature
from patchwork.core.signals import REQUEUE_SIGNALS, Interrupter, handle_stop_signals
from patchwork.core.slurm import requeue
from patchwork.core.suggest import closest
from patchwork.core.terminal import robust_output

HELP = {"-h", "--help"}
CONFIG_COMMANDS = ("train", "audit", "sweep")  # which take overrides of a configuration
RESUMABLE = ("train", "sweep")  # the commands that go on where they were stopped


def run_command(name: str, action: Callable[[], int | None]) -> int:
    """Do what a command does and return its exit code; an error that a user can correct is printed in one line."""
    interrupter = Interrupter()
    with robust_output(), handle_stop_signals(interrupter), patch.object(warnings, "showwarning", show_warning):
        try:
            limit_threads()
            code = action() or 0
        except Interrupted as error:
            code = print_error(name, error)
        except Exception as error:
            code = handle_error(name, error, interrupter.received)
        if code - 128 in REQUEUE_SIGNALS:
            requeue_job(name)
        return code


def handle_error(name: str, error: Exception, received: int | None) -> int:
    """Print an error, in one line unless it is a bug, and return the exit code; `received` is a signal, if any."""
    if received is not None:  # some libraries turn what a signal raises within them into errors of their own
        return print_error(name, Interrupted(received))
    expected = as_user_error(error)
    if expected is not None:
        return print_error(name, expected)
    traceback.print_exception(error)
    update_job_status(error=f"{type(error).__name__}: {one_line(error)}")
    return 1


def requeue_job(name: str) -> None:
    """Put the SLURM job of this command back into its queue, if it can go on there, and say so.

    Of a multirun, the leading process does.
    """
    if name in RESUMABLE and is_rank_zero() and JOB not in os.environ and (outcome := requeue()):
        print(f"{program(name)}: {outcome}", file=sys.stderr)


def call_command(name: str, function: Callable[..., int | None], args: list[str]) -> int:
    """Call a function with the keyword arguments that `key=value` strings give it, and return the exit code."""
    if print_help(args, lambda: format_help(f"patchwork {name} key=value …", function)):
        return 0
    return run_command(name, lambda: function(**parse_call(function, name_arguments(function, args))))


def print_help(args: list[str], text: Callable[[], str]) -> bool:
    """Print the help of a command if its arguments ask for it, and return whether they do."""
    if not HELP & {*args}:
        return False
    print(text())
    return True


def name_arguments(function: Callable[..., Any], args: list[str]) -> list[str]:
    """Return the arguments of a command whose first key is `run` or `runs` with that before those that are paths.

    Raises:
        ConfigError: if an argument is an option, as `--seed`, or neither a path that exists nor `key=value`; or if
            there are several paths and the command takes one.
    """
    parameters = signature(function)
    first, (annotation, _) = next(iter(parameters.items()))
    takes_runs = first in ("run", "runs")
    named, paths = [], []
    for arg in args:
        key, separator, value = arg.partition("=")
        if arg.startswith("--"):
            meant = closest(key, parameters) or "key"
            raise ConfigError(f"{arg} is not an option of this command: write {meant}={value or 'value'}")
        if key in parameters and separator:
            named.append(arg)
        elif takes_runs and (exists(expand_home(arg)) or is_shipped(arg)):
            paths.append(arg)
        elif not separator and takes_runs:
            raise ConfigError(
                f"{arg!r} is neither key=value nor a run directory that exists; the keys are {', '.join(parameters)}"
            )
        else:
            named.append(arg)
    if len(paths) > 1 and not takes_containers(annotation):
        raise ConfigError(
            f"this command takes one run, not {len(paths)}: {shell_command('compare', *paths)} compares them"
        )
    if len(paths) > 1:
        return [format_override(first, paths), *named]
    return [*(f"{first}={path}" for path in paths), *named]


def is_shipped(name: str) -> bool:
    """Return whether weights of this name come with the package."""
    from patchwork.runs.weights import shipped_names

    return name in shipped_names()


def print_error(name: str, error: PatchworkError | Interrupted) -> int:
    """Print an error after the name of the program, note it in the job's status file, and return its exit code."""
    if is_rank_zero():
        message = name_owner(name, error) if isinstance(error, UnknownKeyError) else one_line(error)
        print(f"{program(name)}: {message}", file=sys.stderr)
        update_job_status(error=message)
    return error.exit_code


def name_owner(name: str, error: UnknownKeyError) -> str:
    """Return the message of an unknown key, with the commands that have it if it is another one's."""
    message, key = one_line(error), error.key
    owners = [other for other, function in keyword_commands().items() if key in signature(function)]
    if key.partition(".")[0] in (*SCALAR_KEYS, *TARGET_PACKAGES):
        owners.append("train")
    if not owners or (name in CONFIG_COMMANDS and ("did you mean" in message or "train" in owners)):
        return message
    stated = message.partition("; its keys are")[0]
    return f"{stated}; it is a key of {', '.join(f'patchwork {owner}' for owner in owners)}"


def keyword_commands() -> dict[str, Callable[..., Any]]:
    """Return the functions of the commands whose arguments are keywords, by the name of the command."""
    return {name: keyword_command(name) for name in FUNCTIONS}


def keyword_command(name: str) -> Callable[..., Any]:
    """Return the function of a command whose arguments are keywords."""
    function: Callable[..., Any] = getattr(import_module(f"{__package__}.{name}"), FUNCTIONS[name])
    return function


def program(name: str) -> str:
    """Return what a user has called."""
    script = Path(sys.argv[0]).name
    return script if script == "train.py" else f"patchwork {name}"


def show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Print a warning of this package in one line; those of libraries are for developers and are left out."""
    if issubclass(category, PatchworkWarning) and is_rank_zero():
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def format_help(usage: str, function: Callable[..., Any]) -> str:
    """Format the help of a command: its docstring, and each key with its default and its sentence."""
    about, _, _ = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:\n")
    sentences = argument_sentences(function)
    lines = [about.strip(), "", f"  {usage}", ""]
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            required = parameter.default is parameter.empty
            key = f"{parameter.name}=…" if required else f"{parameter.name}={format_value(parameter.default)}"
            lines.append(f"  {key:<24} {sentences.get(parameter.name, '')}".rstrip())
    return "\n".join(lines)
