"""The training curves of a run."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from patchwork.figures.curves import plot_curves
from patchwork.figures.style import save_figure

Rows = list[dict[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["epoch", "step"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def training(epochs: int, steps: int = 20) -> Rows:
    """Make the table of a run: a row for each step, and one for each validation."""
    rows: Rows = []
    for step in range(epochs * steps):
        epoch, loss = step // steps, 2.3 * math.exp(-step / 50)
        rows.append({"epoch": epoch, "step": step, "train/loss": loss, "lr": 1e-3})
        if step % steps == steps - 1:
            accuracy = 1 - 0.5 * math.exp(-epoch)
            rows.append({"epoch": epoch, "step": step, "val/loss": loss, "val/sequence_accuracy": accuracy})
            rows[-1] |= {"val/digit_accuracy": accuracy**0.25, "val/cell_accuracy/1_2": accuracy}
    return [*rows, {"epoch": epochs, "step": epochs * steps, "test/loss": 0.3, "test/sequence_accuracy": 0.9}]


def without(rows: Rows, *prefixes: str) -> Rows:
    return [{name: value for name, value in row.items() if not name.startswith(prefixes)} for row in rows]


TABLES: dict[str, Rows] = {
    "a run": training(8),
    "a single epoch": training(1),
    "a long run": training(200, 5),
    "one row": [{"epoch": 0, "step": 0, "train/loss": 2.3}],
    "one validation": [{"epoch": 0, "step": 9, "val/accuracy": 0.5}],
    "no rows": [],
    "no validation": without(training(3), "val/"),
    "no training": without(training(3), "train/", "lr"),
    "no learning rate": without(training(3), "lr"),
    "two learning rates": [{**row, "lr/muon": 1e-2, "lr/adamw": 1e-3} for row in without(training(3), "lr")],
    "no accuracy": without(training(3), "val/seq", "val/dig"),
    "nothing finite": [{"epoch": 0, "step": i, "train/loss": "nan", "val/loss": "inf", "lr": ""} for i in range(5)],
    "missing values": [row | ({"train/loss": "nan"} if row["step"] % 3 else {}) for row in training(4)],
    "text in a cell": [row | ({"val/loss": "oops"} if "val/loss" in row else {}) for row in training(2)],
    "zero and negative losses": [{"epoch": 0, "step": i, "train/loss": 2 - i, "val/loss": 0.0} for i in range(5)],
    "zero losses": [{"epoch": 0, "step": i, "train/loss": 0.0, "lr": 0.0} for i in range(5)],
    "perfect": [{"epoch": i, "step": i, "val/accuracy": 1.0} for i in range(5)],
    "huge and tiny": [{"epoch": i, "step": i, "train/loss": 10.0**-i, "val/perplexity": 1e9 * i} for i in range(12)],
    "down to the smallest floats": [{"epoch": 0, "step": i, "train/loss": 10.0 ** (-107 * i)} for i in range(4)],
    "many metrics": [{"epoch": i, "step": i} | {f"val/m_{j}": 1 - 0.001 * j for j in range(30)} for i in range(4)],
    "a long name": [{"epoch": i, "step": i, "val/" + "very_" * 20 + "long": 0.1 * i} for i in range(4)],
    "validation in mid-epoch": [{"epoch": i // 4, "step": 10 * i, "val/accuracy": i / 20} for i in range(12)],
    "no epochs nor steps": [{"val/accuracy": 0.1 * i, "train/loss": 1.0} for i in range(5)],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", TABLES)
def test_any_table_can_be_plotted_and_saved(tmp_path: Path, name: str) -> None:
    save_figure(plot(tmp_path, TABLES[name]), tmp_path / "curves.png")
    assert imread(tmp_path / "curves.png").shape == (600, 1575, 4)


def plot(tmp_path: Path, rows: Rows, **options: Any) -> Figure:
    return plot_curves(write(tmp_path / "metrics.csv", rows), **options)


def annotations(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_each_line_is_labeled_and_nested_metrics_are_omitted(tmp_path: Path) -> None:
    text = annotations(plot(tmp_path, training(5)))
    for name in ("training", "validation", "learning rate", "sequence accuracy", "digit accuracy"):
        assert name in text.split("\n")
    assert "cell" not in text
    assert "test" not in text


@pytest.mark.parametrize(
    ("options", "best"),
    [
        ({}, "best accuracy 80.00 % at epoch 3"),
        ({"monitor": "val/accuracy", "mode": "min"}, "best accuracy 40.00 % at epoch 1"),
        ({"monitor": "val/loss"}, "best loss 0.5 at epoch 2"),
        ({"monitor": "val/loss", "mode": "max"}, "best loss 3 at epoch 4"),
        ({"monitor": "val/missing"}, "best accuracy 80.00 % at epoch 3"),
    ],
)
def test_best_epoch_of_the_monitored_metric_is_marked(tmp_path: Path, options: dict[str, Any], best: str) -> None:
    pairs = [(2.0, 0.4), (0.5, 0.6), (1.0, 0.8), (3.0, 0.7)]
    rows = [
        {"epoch": i, "step": 10 * i, "val/loss": loss, "val/accuracy": accuracy}
        for i, (loss, accuracy) in enumerate(pairs)
    ]
    assert best in annotations(plot(tmp_path, rows, **options))


@pytest.mark.parametrize("name", sorted(set(TABLES) - {"down to the smallest floats"}))
def test_labels_do_not_overlap(tmp_path: Path, name: str) -> None:
    rows = TABLES[name] if name != "many metrics" else without(TABLES[name], "val/m_1", "val/m_2")
    figure = plot(tmp_path, rows)
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes for text in [*axes.texts, axes.title, axes._left_title] if text.get_text()]
    texts += [axis.label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) if axis.label.get_text()]
    for axes in figure.axes:
        low, high = axes.get_ylim()
        ticks = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        texts += [label for position, label in ticks if axes.axison and low <= position <= high]
    boxes = [text.get_window_extent().shrunk(0.95, 0.8) for text in texts]
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        for j in range(i):
            assert not box.overlaps(boxes[j]), (texts[i].get_text(), texts[j].get_text())
