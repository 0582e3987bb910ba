"""What Windows lacks is not needed; `windows.py` takes it away."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import TINY, read_manifest


@pytest.mark.slow
def test_modules_and_a_training_do_without_what_windows_lacks(tmp_path: Path) -> None:
    program = [sys.executable, Path(__file__).with_name("windows.py"), tmp_path / "run", *TINY]
    result = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert read_manifest(tmp_path)["status"] == "finished"
    assert "no locks on this disk" in result.stderr
