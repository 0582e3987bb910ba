"""Download a data set in the format of MNIST from the first mirror that has it."""

import queue
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from patchwork.core.errors import DataError, ResourceError
from patchwork.core.terminal import is_terminal
from patchwork.data.sources.idx import IdxDataset, NotFoundError, parse_idx, read_file

REQUEST_TIMEOUT = (3.0, 10.0)  # seconds to connect, and to wait for the next bytes
MIRROR_TIMEOUT = 10.0  # seconds until a mirror must have answered at all
RETRIES = 2


def download(dataset: IdxDataset, directory: Path) -> Path:
    """Download the four files, gzipped, into `directory`: none is there before all are complete and checked.

    Raises:
        NotFoundError: if no mirror has them.
        ResourceError: if they cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="partial-", dir=directory) as staging:
            for path in [fetch(dataset, name, Path(staging)) for name in dataset.digests]:
                path.replace(directory / path.name)
    except OSError as error:
        raise ResourceError(f"{directory} cannot be written: {error}; {dataset.remedy}") from error
    return directory


def fetch(dataset: IdxDataset, name: str, directory: Path) -> Path:
    """Download one file from the first mirror whose file has the right content.

    Raises:
        NotFoundError: if there is none; the message says what went wrong with each.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    terminal = is_terminal(sys.stderr)
    http = pooch.HTTPDownloader(terminal, 1 << 16, timeout=REQUEST_TIMEOUT, headers={"Accept-Encoding": "identity"})

    def checked(url: str, path: str, _: object) -> None:
        http(url, path, None)
        parse_idx(dataset, name, read_file(Path(path), url), url)

    problems: list[str] = []
    for url in available_urls(dataset.mirrors, f"{name}.gz", problems):
        try:
            if terminal:
                print(f"Fetching {url}", file=sys.stderr)
            return Path(pooch.retrieve(url, None, f"{name}.gz", directory, downloader=checked))
        except requests.RequestException as error:
            problems.append(f"{url}: {type(error).__name__}")
        except DataError as error:
            problems.append(str(error))
    raise NotFoundError("; ".join(dict.fromkeys(problems)))


def available_urls(mirrors: tuple[str, ...], file: str, problems: list[str]) -> Iterator[str]:
    """Yield the URLs that have `file`, the quickest first, and again for each retry while any mirror answers.

    All mirrors are queried at once, in daemon threads with one deadline: without a network a name look-up, or a dozen
    addresses tried in turn, outlasts any timeout of requests.

    Args:
        mirrors: URLs of directories.
        file: name of a file in them.
        problems: list that what goes wrong is appended to.
    """
    for _ in range(1 + RETRIES):
        answers: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()
        deadline, answered = time.monotonic() + MIRROR_TIMEOUT, False
        for mirror in mirrors:
            threading.Thread(target=query, args=(mirror + file, answers), daemon=True).start()
        for _ in mirrors:
            try:
                url, problem = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                problems.append(f"no answer within {MIRROR_TIMEOUT:g} s")
                break
            if problem:
                problems.append(f"{url}: {problem}")
            else:
                answered = True
                yield url
        if not answered:
            return


def query(url: str, answers: queue.SimpleQueue[tuple[str, str | None]]) -> None:
    """Put a URL and what is wrong with it, or None, into a queue."""
    import requests

    try:
        status = requests.head(url, timeout=REQUEST_TIMEOUT, allow_redirects=True).status_code
        answers.put((url, None if status == 200 else f"status {status}"))
    except Exception as error:  # of whatever type: the other end waits for an answer
        answers.put((url, type(error).__name__))
