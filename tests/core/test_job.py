"""The status file of a multirun's job."""

from pathlib import Path

import pytest

from patchwork.core.job import JOB, read_json, update_job_status, write_json


def test_facts_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0.json"
    write_json(path, {"job": 0, "status": "running"})
    monkeypatch.setenv(JOB, str(path))
    update_job_status(run_dir="run")
    update_job_status(done=True)
    assert read_json(path) == {"job": 0, "status": "running", "run_dir": "run", "done": True}


def test_process_that_is_no_job_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB, raising=False)
    monkeypatch.chdir(tmp_path)
    update_job_status(done=True)
    assert list(tmp_path.iterdir()) == []


def test_status_that_cannot_be_written_stops_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(JOB, str(tmp_path / "file" / "0.json"))
    update_job_status(done=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "")]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"], ids=repr)
def test_damaged_file_reads_as_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0.json").write_bytes(content)
    assert read_json(tmp_path / "0.json") == {}
    assert read_json(tmp_path / "missing.json") == {}
