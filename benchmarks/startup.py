"""Time from the command to the end of the first training step, compared with importing torch and Lightning."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def first_step() -> float:
    """Return the seconds from the command to the end of its first training step."""
    overrides = ["dataset=uci", "data.val_size=500", "data.test_size=500", "callbacks.show_samples=null", "debug=fast"]
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "run"
        command = [sys.executable, ROOT / "train.py", *overrides, f"run_dir={run_dir}"]
        subprocess.run(command, check=True, capture_output=True)
        return json.loads((run_dir / "manifest.json").read_text())["startup_seconds"]


def library_imports() -> float:
    """Return the seconds that a new interpreter takes to import torch and Lightning."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, pytorch_lightning"], check=True)
    return time.perf_counter() - start
