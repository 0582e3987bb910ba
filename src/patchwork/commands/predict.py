"""Read digits in picture files, or write a run's predictions of its validation or test samples as a table."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval
from pydantic import NonNegativeInt

from patchwork.commands.app import call_command, format_help, name_arguments, print_help, run_command
from patchwork.commands.options import check_defaults
from patchwork.core.atomic import write_bytes
from patchwork.core.errors import ConfigError, DataError
from patchwork.core.overrides import parse_call
from patchwork.core.paths import exists, expand_home
from patchwork.core.schema import signature
from patchwork.core.types import PathStr

if TYPE_CHECKING:
    from patchwork.tasks import Predictions, Task

SUFFIXES = (".csv", ".jsonl")
STDIN = "-"

Count = Annotated[int, Interval(ge=1, le=25)]


def command(args: list[str]) -> int:
    """Predict files if positional arguments are any but runs, and a split otherwise."""
    usage = "patchwork predict FILE|FOLDER|PATTERN|- … key=value …, or patchwork predict RUN_DIR out=…"
    if print_help(args, lambda: format_help(usage, predict)):
        return 0
    files = [arg for arg in args if is_positional(arg)]
    if not files or all(map(names_run, files)):
        return call_command("predict", predict, args)
    return run_command("predict", lambda: predict(files=files, **parse_call(predict, options_among(args))))


def is_positional(arg: str) -> bool:
    """Return whether an argument is an input, and neither an option nor `key=value` of a key that there is."""
    key, separator, _ = arg.partition("=")
    return arg == STDIN or not (arg.startswith("--") or (separator and (key in signature(predict) or not exists(arg))))


def options_among(args: list[str]) -> list[str]:
    """Return the arguments that are `key=value`.

    Raises:
        ConfigError: if one is an option, as `--seed`.
    """
    return name_arguments(predict, [arg for arg in args if not is_positional(arg)])


def names_run(arg: str) -> bool:
    """Return whether an argument names a run or weights, and no pictures."""
    from patchwork.runs.run_dir import CONFIG_FILE
    from patchwork.runs.weights import locate_weights_dir

    path = expand_home(arg)
    return exists(path / CONFIG_FILE) or path.suffix == ".ckpt" or locate_weights_dir(arg) is not None


def predict(
    *,
    run: PathStr | None = None,
    files: list[str] | None = None,
    out: PathStr | None = None,
    split: Literal["val", "test"] = "test",
    rows: Count | None = None,
    cols: Count | None = None,
    format: Literal["jsonl", "csv"] | None = None,
    strict: bool = False,
    top: NonNegativeInt = 3,
) -> int:
    """Read the digits in pictures, a line each, or write a run's predictions of a split as a table.

    Pictures are files, folders, patterns and - for stdin: images, uint8 arrays (.npy), IDX files and drawings (JSON
    with strokes, width and height). Each is brought to the form of MNIST, and a grid of digits is found in it. A line
    has the file, the answer and its probability, and those of each digit, or an error if they cannot be read.

    Of a split, the columns are index (of the sample in the split), image_ids (of the source's images that it is made
    of), target, prediction, probability (of the prediction) and correct; what a model does not give is empty. A
    generative model has log_likelihood, in nats, in place of prediction; one without a likelihood has negative_loss.

    Args:
        run: a run directory, or the name of weights that come with the package; for pictures of task=seq2seq (the
            default) or task=classify.
        files: pictures to read, which need no key; without any, a split is predicted.
        out: the file to write, .csv or .jsonl, and an existing one is replaced; lines of pictures go to stdout without.
        split: val or test, without pictures.
        rows: rows of digits in a picture; found if not given.
        cols: digits in a row of a picture; found if not given.
        format: jsonl or csv, of lines of pictures; by default that of out, or jsonl.
        strict: exit with code 3 if any picture is not read, and not only if none is.
        top: how many of the likeliest digits of each cell to list in JSON.

    Raises:
        PatchworkError: of the kind that says what is wrong.
    """
    path = None if out is None else Path(out)
    if path is not None and path.suffix not in SUFFIXES:
        raise ConfigError(f"out={out} is not allowed: use a name that ends with {' or '.join(SUFFIXES)}")
    picture_options = {"rows": rows, "cols": cols, "format": format, "strict": strict, "top": top}
    if files is not None:
        check_defaults(predict, {"split": split}, "does not apply to pictures")
        return predict_pictures(files, path, run=run, rows=rows, cols=cols, format=format, strict=strict, top=top)
    check_defaults(predict, picture_options, "applies only to pictures, and there are none")
    if run is None:
        raise ConfigError("run is missing: give run=…")
    if path is None:
        raise ConfigError("out is missing: give out=…")
    return predict_split(run, path, split)


def predict_pictures(
    files: list[str],
    path: Path | None,
    *,
    run: str | None,
    rows: int | None,
    cols: int | None,
    format: Literal["jsonl", "csv"] | None,
    strict: bool,
    top: int,
) -> int:
    """Read the digits in pictures, see `predict`, and return the exit code."""
    import patchwork.core.fast_import  # noqa: F401
    from patchwork.data.picture_files import read_pictures
    from patchwork.runs.picture_answers import Failure, PictureReader
    from patchwork.runs.picture_lines import csv_header, csv_line, json_line
    from patchwork.runs.run import Run
    from patchwork.runs.weights import shipped_names

    suffix = "jsonl" if path is None else path.suffix[1:]
    if path is not None and format not in (None, suffix):
        raise ConfigError(f"format={format} is not allowed with out={path}: drop format")
    if run is None and "seq2seq" not in shipped_names():
        raise ConfigError("run is missing: give run=…")
    is_csv = (format or suffix) == "csv"
    reader = PictureReader(Run.load(run or "seq2seq"), rows, cols)
    lines = [csv_header()] if is_csv else []
    num_read = num_failed = 0
    for answer in reader.read(read_pictures(files)):
        failed = isinstance(answer, Failure)
        num_read, num_failed = num_read + (not failed), num_failed + failed
        lines.append(csv_line(answer, reader) if is_csv else json_line(answer, reader, top))
        if path is None:
            sys.stdout.write("".join(lines))
            sys.stdout.flush()
            lines.clear()
    if path is not None:
        write_bytes(path, "".join(lines).encode())
        print(f"{num_read} of {num_read + num_failed} pictures read: {path}")
    if not num_read or (strict and num_failed):
        raise DataError(f"{num_failed} of {num_read + num_failed} pictures were not read, as their lines say")
    return 0


def predict_split(run: str, path: Path, split: Literal["val", "test"]) -> int:
    """Write a run's predictions of a split as a table, see `predict`."""
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
    return 0


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
