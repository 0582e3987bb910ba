"""Stand in for train.py where a test is about the sweep: it takes milliseconds, and counts how often it began.

Its loss falls to `seed`; `seed=13` fails. What it measured is kept as a run keeps it, and it goes on from there.
"""

import json
import signal
import sys
import time
from pathlib import Path

words = dict(word.split("=", 1) for word in sys.argv[1:])
folder, seed, epochs = Path(words["folder"]), int(words["seed"]), int(words["trainer.max_epochs"])
folder.mkdir(parents=True, exist_ok=True)
with folder.with_name("begun").open("a") as file:
    file.write(f"{folder.name}\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if (folder / "manifest.json").exists():
    sys.exit(0)
if seed == 13:
    print("Traceback of something\ntrain.py: seed=13 is unlucky", file=sys.stderr)
    sys.exit(4)
table = folder / "metrics.csv"
lines = table.read_text().splitlines() if table.exists() else ["epoch,step,val/loss"]
while len(lines) <= epochs:
    time.sleep(0.1)
    lines.append(f"{len(lines) - 1},{len(lines)},{seed + 1 / len(lines)}")
    part = folder / "part"
    part.write_text("\n".join(lines) + "\n")
    part.replace(table)
manifest = {
    "status": "finished",
    "metrics": {"val/loss": seed + 1 / epochs, "test/loss": seed},
    "best_epoch": epochs,
    "epochs": epochs,
    "train_seconds": 1.0,
    "parameters": 100,
}
part = folder / "part"
part.write_text(json.dumps(manifest))
part.replace(folder / "manifest.json")
