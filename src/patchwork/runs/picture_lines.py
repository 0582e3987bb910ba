"""Lines about pictures: one JSON object, or one row of CSV (RFC 4180), for each."""

import csv
import io
import json
import math
from typing import Any

from patchwork.runs.picture_answers import Answer, Failure, PictureReader

COLUMNS = ("file", "answer", "probability", "sure", "probabilities", "error")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which a cell begins that spreadsheets compute
NUM_DIGITS = 10


def json_line(answer: Answer | Failure, reader: PictureReader, top: int) -> str:
    """Return the line of a picture as JSON, with the `top` likeliest digits of each cell."""
    if isinstance(answer, Failure):
        return encode({"file": answer.name, "error": {"kind": answer.kind, "message": answer.message}})
    probabilities = answer.probabilities.tolist()
    all_probs = answer.log_probs[:, :NUM_DIGITS].exp().tolist()
    digits = []
    for token, probability, probs, box in zip(
        answer.prediction.tolist(), probabilities, all_probs, answer.boxes, strict=True
    ):
        likeliest = sorted(range(len(probs)), key=probs.__getitem__, reverse=True)[:top]
        digits.append(
            {
                "digit": as_digit(token),
                "probability": round(probability, 6),
                "sure": is_sure(probability, reader),
                "top": [[digit, round(probs[digit], 6)] for digit in likeliest],
                "box": box,
            }
        )
    return encode(
        {
            "file": answer.name,
            "answer": [digit["digit"] for digit in digits],
            "probability": round(math.prod(probabilities), 6),
            "digits": digits,
            "sure": all_sure(probabilities, reader),
            "model": reader.model,
            "ms": round(answer.milliseconds, 1),
        }
    )


def csv_header() -> str:
    return csv_row(COLUMNS)


def csv_line(answer: Answer | Failure, reader: PictureReader) -> str:
    """Return the line of a picture as CSV; a name that a spreadsheet would compute begins with an apostrophe."""
    if isinstance(answer, Failure):
        return csv_row((escape(answer.name), "", "", "", "", f"{answer.kind}: {answer.message}"))
    probabilities = answer.probabilities.tolist()
    digits = [as_digit(token) for token in answer.prediction.tolist()]
    sure = all_sure(probabilities, reader)
    return csv_row(
        (
            escape(answer.name),
            "".join("?" if digit is None else str(digit) for digit in digits),
            round(math.prod(probabilities), 6),
            "" if sure is None else str(sure).lower(),
            " ".join(str(round(probability, 6)) for probability in probabilities),
            "",
        )
    )


def as_digit(token: int) -> int | None:
    """Return a token as a digit; None for the end of a sequence, or its beginning."""
    return token if token < NUM_DIGITS else None


def is_sure(probability: float, reader: PictureReader) -> bool | None:
    """Return whether an answer is as probable as the weights' threshold demands; None if they have none."""
    return None if reader.threshold is None else probability >= reader.threshold


def all_sure(probabilities: list[float], reader: PictureReader) -> bool | None:
    return None if reader.threshold is None else all(probability >= reader.threshold for probability in probabilities)


def escape(name: str) -> str:
    return f"'{name}" if name.startswith(FORMULA) else name


def encode(values: dict[str, Any]) -> str:
    return json.dumps(values) + "\n"


def csv_row(values: tuple[Any, ...]) -> str:
    content = io.StringIO()
    csv.writer(content, lineterminator="\r\n").writerow(values)
    return content.getvalue()
