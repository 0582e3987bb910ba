"""The metrics of a run, as they are read from its table."""

from pathlib import Path

import numpy as np
import pytest

from patchwork.figures.metrics import find_best, read_metrics, smooth


def test_read_metrics_skips_values_that_are_not_finite_and_sorts_by_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,val/loss,lr\n1,20,0.5,\n0,10,1.0,nan\n2,30,,\n3,40,inf,\n")
    columns = read_metrics(path)
    assert columns["val/loss"].value.tolist() == [1.0, 0.5]
    assert columns["val/loss"].step.tolist() == [10, 20]
    assert columns["val/loss"].epoch.tolist() == [1, 2]
    assert "lr" not in columns


def test_rows_without_step_and_epoch_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("val/accuracy\n0.25\n0.5\n0.75\n")
    series = read_metrics(path)["val/accuracy"]
    assert (series.step.tolist(), series.epoch.tolist()) == ([0, 1, 2], [1, 2, 3])


@pytest.mark.parametrize(("mode", "value"), [(None, 0.25), ("min", 0.25), ("max", 0.75)])
def test_best_value_of_a_loss_is_the_least_by_default(tmp_path: Path, mode: str | None, value: float) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,val/loss\n0,10,0.75\n1,20,0.25\n2,30,0.5\n")
    assert find_best("val/loss", read_metrics(path)["val/loss"], mode).value == value


@pytest.mark.parametrize("n", [1, 49, 50, 51, 1000])
def test_smoothing_preserves_the_level_and_reduces_the_noise(n: int) -> None:
    assert np.allclose(smooth(np.full(n, 3.0)), 3.0)
    noise = np.random.default_rng(0).normal(size=n)
    assert smooth(noise).shape == (n,)
    assert n < 50 or smooth(noise).std() < 0.9 * noise.std()
