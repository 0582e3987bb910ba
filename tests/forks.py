"""Run `train.py` again and again in processes of its own, each killed at a random moment, until it finishes.

    python forks.py SEED KILLS ARGUMENT ...

A process is forked after the slow imports, so that ten kills cost seconds. Prints how far each attempt came.
"""

import os
import random
import runpy
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def attempt(arguments: list[str], seconds: float | None, folder: Path) -> int:
    """Train in a new process, kill it some seconds after it began to train, and return how it ended."""
    child = os.fork()
    if child == 0:
        sys.argv = [str(ROOT / "train.py"), *arguments]
        code = 0
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            code = 70
        os._exit(code)
    if seconds is not None:
        while (
            not (folder / "checkpoints").exists()
            and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            time.sleep(0.005)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    seed, kills, *arguments = sys.argv[1:]
    folder = Path(next(word.partition("=")[2] for word in arguments if word.startswith("folder=")))
    dice = random.Random(int(seed))
    ends = [attempt(arguments, dice.uniform(0.0, 0.5), folder) for _ in range(int(kills))]
    ends.append(attempt(arguments, None, folder))
    print(ends)
    sys.exit(ends[-1])


main()
