"""Stand-in for `patchwork train` in tests of the search: it takes milliseconds and counts how often it is started.

Its loss falls to `seed`; `seed=13` fails, and `seed=15` finishes without having measured anything. It writes what a run
writes, and resumes from that. Environment variables:

- LOCKSTEP: after each epoch, wait until the search has seen it.
- START_TOGETHER: wait until so many runs have been started, in all sweeps of the working directory.
"""

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.005)


def write(path: Path, content: str) -> None:
    temporary = path.with_name("temporary")
    temporary.write_text(content)
    temporary.replace(path)


def read_number(path: Path) -> int:
    return int(path.read_text() or 0) if path.exists() else 0


def num_started() -> int:
    return sum(len(path.read_text().splitlines()) for path in Path().glob("*/trials/started"))


overrides = dict(override.split("=", 1) for override in sys.argv[1:])
run_dir = Path(overrides["run_dir"].strip("'").replace("\\'", "'"))  # without Hydra's quotes
seed, num_epochs = int(overrides["seed"]), int(overrides["trainer.max_epochs"])
run_dir.mkdir(parents=True, exist_ok=True)
lock = (run_dir / ".lock").open("w")
fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with run_dir.with_name("started").open("a") as file:
    file.write(f"{run_dir.name} {os.getpid()}\n")
if (run_dir / "manifest.json").exists():
    sys.exit(0)
if seed == 13:
    print("Traceback of something\npatchwork train: seed=13 is unlucky", file=sys.stderr)
    sys.exit(4)
wait_until(lambda: num_started() >= int(os.environ.get("START_TOGETHER", 0)))
table = run_dir / "metrics.csv"
lines = table.read_text().splitlines() if table.exists() else ["epoch,step,val/loss"]
while len(lines) <= num_epochs:
    lines.append(f"{len(lines) - 1},{len(lines)},{seed + 1 / len(lines)}")
    write(table, "\n".join(lines) + "\n")
    if "LOCKSTEP" in os.environ:
        wait_until(lambda: read_number(run_dir / "seen") >= len(lines) - 1)
manifest = {
    "status": "finished",
    "metrics": {"val/loss": seed + 1 / num_epochs, "test/loss": seed} if seed != 15 else {},
    "best_epoch": num_epochs,
    "epochs": num_epochs,
    "train_seconds": 1.0,
    "parameters": 100,
}
write(run_dir / "manifest.json", json.dumps(manifest))
