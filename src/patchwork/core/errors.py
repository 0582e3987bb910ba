"""Kinds of errors: each has its own exit code, and each message is one line.

A message names the key, the value and what is allowed. Commands print it on stderr and exit with `exit_code`; an
exception that is not a `PatchworkError` is a bug and keeps its traceback.
"""

import errno
import signal
import sys
import warnings

PACKAGE = __name__.partition(".")[0]


class PatchworkError(Exception):
    """Base of all errors that a user can correct."""

    exit_code = 1


class ConfigError(PatchworkError):
    """A key, type, value or combination that is not allowed."""

    exit_code = 2


class UnknownKeyError(ConfigError):
    """A key that does not exist, which may be one of another command."""

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class DataError(PatchworkError):
    """A data file or checkpoint that is missing, damaged or foreign."""

    exit_code = 3


class NumericError(PatchworkError):
    """A loss or gradient that is not finite."""

    exit_code = 4


class ResourceError(PatchworkError):
    """A disk, device or network that is not available, full or not writable."""

    exit_code = 5


class PatchworkWarning(UserWarning):
    """Something that a user should know though the command continues; shown in one line."""


class Interrupted(BaseException):
    """A signal stopped the command. Not an `Exception`, so that no handler of errors on the way catches it."""

    def __init__(self, signum: int, hint: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}{hint}")
        self.signum, self.hint = signum, hint
        self.exit_code = 128 + signum


def warn(message: str) -> None:
    """Warn of something that a user should know, at the line that called this package."""
    frame, packages = sys._getframe(), []
    while (frame := frame.f_back) is not None:  # type: ignore[assignment]
        packages.append(str(frame.f_globals.get("__name__")).partition(".")[0])
    level = len(packages) - packages[::-1].index(PACKAGE)  # of the caller of this package's outermost function
    while packages[level : level + 1] == ["torch"]:  # a decorator of it
        level += 1
    warnings.warn(message, PatchworkWarning, stacklevel=level + 2)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())


def as_user_error(error: BaseException) -> PatchworkError | None:
    """Return an error as one that a user can correct, as a full disk or too little memory; None for a bug."""
    if isinstance(error, PatchworkError):
        return error
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
        return ResourceError(
            f"out of memory ({one_line(error)[:120]}): try a smaller data.batch_size, data.eval_batch_size or model"
        )
    disk = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR)
    if isinstance(error, OSError) and error.errno in disk:
        return ResourceError(f"{error.filename or 'a file of the run'} cannot be read or written: {error.strerror}")
    return None


def exit_code(error: BaseException) -> int:
    """Return the exit code of a command that ends with this error."""
    return getattr(as_user_error(error) or error, "exit_code", 1)
