"""Train in processes that are forked after the slow imports, and on request are sent a signal while they train.

The program reads one JSON object per line and answers each with one:

    {"args": [...], "signal": 9, "after": 0.2, "written": "run/manifest.json"} → {"exit_code": -9, "stderr": ""}

`args` are those of `train.py`. The signal is sent `after` seconds since the process has `written` that file, or not at
all if it is null.
"""

import json
import os
import runpy
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import matplotlib.figure  # noqa: F401
import sklearn.datasets  # noqa: F401

import patchwork.core.fast_import
import patchwork.runs.train  # noqa: F401
from patchwork.core.schema import check_config
from patchwork.runs.build import build
from patchwork.runs.compose import compose

ROOT = Path(__file__).parents[2]


def run_train(args: list[str], stderr: int) -> int:
    """Run `train.py` in this process and return its exit code; its errors go to the file `stderr`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(stderr, 2)
    sys.argv = [str(ROOT / "train.py"), *args]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stderr.flush()
    return 0


def modified(path: Path) -> int | None:
    """Return when a file was last modified; None if there is no file."""
    return path.stat().st_mtime_ns if path.exists() else None


def has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def attempt(request: dict[str, Any]) -> dict[str, Any]:
    """Train in a new process as a request says, and return how it ended."""
    path = Path(request["written"] or os.devnull)
    before = modified(path)
    with tempfile.TemporaryFile() as stderr:
        child = os.fork()
        if child == 0:
            os._exit(run_train(request["args"], stderr.fileno()))
        if request["signal"] is not None:
            while modified(path) == before and not has_ended(child):
                time.sleep(0.005)
            time.sleep(request["after"])
            os.kill(child, request["signal"])
        exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        stderr.seek(0)
        return {"exit_code": exit_code, "stderr": stderr.read().decode()}


def main() -> None:
    check_config(config := compose(["dataset=uci"]))  # imports and reads what each process would
    data, _ = build(config)
    data.prepare_data()
    for line in sys.stdin:
        print(json.dumps(attempt(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
