"""Optuna's storage in a database that others may lock for a while, or whose connection may be lost."""

import functools
import time
from collections.abc import Callable
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, get_storage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, OperationalError

from patchwork.core.errors import ConfigError, ResourceError, one_line

RETRY_TIMEOUT = 300.0  # seconds after which a database is given up
FIRST_DELAY, MAX_DELAY = 0.1, 5.0  # seconds between two attempts, which double
OPEN_ATTEMPTS = 4  # at what is not a lock, as when several processes make the tables at the same moment
SQLITE_TIMEOUT = 1.0  # seconds that SQLite itself waits for a lock, in which no signal is heard


class RetryingStorage:
    """A storage whose operations are tried again while the database is locked or cannot be reached.

    Each operation is one transaction, so that one that failed has changed nothing.

    Args:
        storage: Optuna's storage.
        url: its URL, for messages.
    """

    def __init__(self, storage: Any, url: str) -> None:
        self.storage, self.url = storage, url

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.storage, name)
        if not callable(attribute):
            return attribute

        @functools.wraps(attribute)
        def retrying(*args: Any, **kwargs: Any) -> Any:
            return retry(lambda: attribute(*args, **kwargs), self.url)

        return retrying


def open_storage(url: str) -> RetryingStorage:
    """Connect to a database and make its tables if there are none; other processes may be doing it just now.

    Raises:
        ConfigError: if it is not a URL.
        ResourceError: if the database cannot be opened.
    """
    try:
        is_sqlite = make_url(url).get_backend_name() == "sqlite"
    except ArgumentError as error:
        raise ConfigError(
            f"storage={url} is not allowed: use the URL of a database, as sqlite:///sweep.db or postgresql://…"
        ) from error
    options = {"connect_args": {"timeout": SQLITE_TIMEOUT}} if is_sqlite else {}
    try:
        storage = retry(lambda: get_storage(RDBStorage(url, engine_kwargs=options)), url, OPEN_ATTEMPTS)
    except ResourceError:
        raise
    except Exception as error:  # of whatever library connects to the database
        raise ResourceError(f"storage={url} cannot be opened: {one_line(error)[:200]}") from error
    return RetryingStorage(storage, url)


def retry(operation: Callable[[], Any], url: str, attempts: int | None = None) -> Any:
    """Do an operation on a database, again while it fails for a reason that passes.

    Args:
        operation: what to do.
        url: of the database.
        attempts: at reasons other than a lock; None for any number.

    Raises:
        ResourceError: if it still fails after `RETRY_TIMEOUT` seconds.
    """
    end, delay, attempt = time.monotonic() + RETRY_TIMEOUT, FIRST_DELAY, 0
    while True:
        attempt += 1
        try:
            return operation()
        except (StorageInternalError, DatabaseError) as error:
            cause = error.__cause__ if isinstance(error, StorageInternalError) else error
            if not isinstance(cause, OperationalError | IntegrityError):
                raise
            is_locked = "locked" in str(cause)
            if not is_locked and attempts is not None and attempt >= attempts:
                raise
            reason = "is locked by another process" if is_locked else f"cannot be reached: {one_line(cause)[:120]}"
            if time.monotonic() + delay > end:
                raise ResourceError(
                    f"storage={url} {reason}, for {RETRY_TIMEOUT:.0f} s; the same command goes on once it is free"
                ) from error
            if attempt == 3:
                print(f"storage={url} {reason}: trying again for {RETRY_TIMEOUT:.0f} s", flush=True)
            time.sleep(delay)
            delay = min(2 * delay, MAX_DELAY)
