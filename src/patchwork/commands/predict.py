"""Write a run's predictions of its validation or test samples as a table, one row per sample."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from patchwork.commands.app import call_command
from patchwork.core.atomic import write_bytes
from patchwork.core.errors import ConfigError
from patchwork.core.types import PathStr

if TYPE_CHECKING:
    from patchwork.tasks import Predictions, Task

SUFFIXES = (".csv", ".jsonl")


def command(args: list[str]) -> int:
    return call_command("predict", predict, args)


def predict(*, run: PathStr, out: PathStr, split: Literal["val", "test"] = "test") -> None:
    """Write a run's predictions of a split as a table, one row per sample.

    The columns are index (of the sample in the split), image_ids (of the source's images that it is made of), target,
    prediction, probability (of the prediction) and correct; what a model does not give is empty. A generative model has
    log_likelihood, in nats, in place of prediction; one without a likelihood has negative_loss.

    Args:
        run: a run directory.
        out: the file to write, .csv or .jsonl; an existing one is replaced.
        split: val or test.

    Raises:
        PatchworkError: of the kind that says what is wrong.
    """
    path = Path(out)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"out={out} is not allowed: use a name that ends with {' or '.join(SUFFIXES)}")
    import patchwork.core.fast_import  # noqa: F401
    from patchwork.runs.run import Run
    from patchwork.tasks.base import explain_symbols

    loaded = Run.load(run)
    predictions = loaded.predictions(split)
    rows = list(format_rows(loaded.task, predictions))
    write_bytes(path, (to_csv(rows) if path.suffix == ".csv" else to_jsonl(rows)).encode())
    correct = predictions.correct
    accuracy = "" if correct is None else f", {100 * float(correct.double().mean()):.2f} % correct"
    print(f"{len(predictions)} predictions of the {split} split{accuracy}: {path}")
    if symbols := explain_symbols((str(row[loaded.task.answer_name]) for row in rows), loaded.task.symbols):
        print(f"({symbols})")


def format_rows(task: "Task", predictions: "Predictions") -> Iterator[dict[str, Any]]:
    """Yield a row for each sample; a value that the model does not give is None."""
    unknown = [None] * len(predictions)
    target, probability, correct = predictions.target, predictions.probability, predictions.correct
    is_text = not predictions.prediction.is_floating_point()
    columns = zip(
        predictions.index.tolist(),
        predictions.image_ids.tolist(),
        unknown if target is None else task.format_answers(target),
        task.format_answers(predictions.prediction) if is_text else map(round_number, predictions.prediction.tolist()),
        unknown if probability is None else probability.tolist(),
        unknown if correct is None else correct.tolist(),
        strict=True,
    )
    for index, image_ids, target_text, prediction, chosen_probability, is_correct in columns:
        yield {
            "index": index,
            "image_ids": [image_id for image_id in image_ids if image_id >= 0],
            "target": target_text,
            task.answer_name: prediction,
            "probability": None if chosen_probability is None else round_number(chosen_probability),
            "correct": is_correct,
        }


def round_number(value: float) -> float:
    return round(value, 6)


def to_csv(rows: list[dict[str, Any]]) -> str:
    """Return rows as CSV, with image ids separated by spaces."""
    content = io.StringIO()
    writer = csv.DictWriter(content, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        correct = {None: "", True: "true", False: "false"}[row["correct"]]
        writer.writerow({**row, "image_ids": " ".join(map(str, row["image_ids"])), "correct": correct})
    return content.getvalue()


def to_jsonl(rows: list[dict[str, Any]]) -> str:
    """Return rows as JSON, one object per line."""
    return "".join(json.dumps(row) + "\n" for row in rows)
