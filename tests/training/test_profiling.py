"""The report of a profiler."""

from pathlib import Path
from unittest.mock import Mock

import pytest
from pytorch_lightning.profilers import AdvancedProfiler, PassThroughProfiler, Profiler, SimpleProfiler

from patchwork.training.profiling import MAX_LINES, profiled


@pytest.mark.parametrize("kind", [SimpleProfiler, AdvancedProfiler])
def test_report_is_printed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: type[Profiler]) -> None:
    profiler = kind()
    with profiled(Mock(profiler=profiler), tmp_path):
        profiler.setup("fit", local_rank=0)
        for index in range(50):
            with profiler.profile(f"action {index}"):
                pass
        profiler.describe()  # as the Trainer does after a fit
    report, printed = (tmp_path / "profile.txt").read_text(), capsys.readouterr().out
    assert all(f"action {index}" in report for index in range(50))
    assert printed.splitlines()[:MAX_LINES] == report.splitlines()[:MAX_LINES]
    assert f"in {tmp_path / 'profile.txt'}" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["profile.txt"]
    profiler.describe()  # after the test
    assert [path.name for path in tmp_path.iterdir()] == ["profile.txt"]


def test_a_fit_that_fails_leaves_no_part_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profiler = SimpleProfiler()

    def fail() -> None:
        with profiled(Mock(profiler=profiler), tmp_path):
            profiler.setup("fit", local_rank=0)
            profiler.describe()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    profiler.describe()
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out


def test_the_parts_are_joined_once_all_processes_have_written_theirs(tmp_path: Path) -> None:
    trainer = Mock(profiler=SimpleProfiler())
    trainer.strategy.barrier = lambda name: (tmp_path / "fit-profile-1.txt").write_text("of another process")
    with profiled(trainer, tmp_path):
        pass
    assert (tmp_path / "profile.txt").read_text() == "of another process\n"


def test_nothing_is_reported_without_a_profiler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with profiled(Mock(profiler=PassThroughProfiler()), tmp_path):
        pass
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out
