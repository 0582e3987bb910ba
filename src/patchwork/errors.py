"""What can go wrong, by kind: each kind has its own exit code, and each message is one line.

A message names the key, the value and what is allowed. `train.py` and the other commands print it on stderr and exit
with `exit_code`; anything that is not a `PatchworkError` is a fault of the program and keeps its traceback.
"""

import errno
import signal


class PatchworkError(Exception):
    """Base of all faults that a user can mend."""

    exit_code = 1


class ConfigError(PatchworkError):
    """A key, a type, a value or a combination that is not allowed."""

    exit_code = 2


class DataError(PatchworkError):
    """A data file or a checkpoint that is missing, damaged or foreign."""

    exit_code = 3


class NumericError(PatchworkError):
    """A loss or gradient that is not finite."""

    exit_code = 4


class ResourceError(PatchworkError):
    """A disk, an accelerator or a network that is not there, full or not writable."""

    exit_code = 5


class PatchworkWarning(UserWarning):
    """What a user should know though the command goes on; shown as one line."""


class Interrupted(BaseException):
    """A signal ended the command. Not an `Exception`, so that nothing on the way takes it for one."""

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(f"ended by {signal.Signals(number).name}{advice}")
        self.exit_code = 128 + number


def one_line(error: BaseException) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())


def mendable(error: BaseException) -> PatchworkError | None:
    """Return the error as one that a user can mend, as a failing disk or full memory; None for a program's fault."""
    if isinstance(error, PatchworkError):
        return error
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
        return ResourceError(
            f"there is not enough memory ({one_line(error)[:120]}): try a smaller data.batch_size, "
            "data.eval_batch_size or model"
        )
    disk = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR)
    if isinstance(error, OSError) and error.errno in disk:
        return ResourceError(f"{error.filename or 'a file of the run'} cannot be written: {error.strerror}")
    return None


def exit_code(error: BaseException) -> int:
    """Return the code that a command ends with for this error."""
    return getattr(mendable(error) or error, "exit_code", 1)
