"""A trained model that answers one drawing or picture of a request, with calibrated probabilities and its attention."""

import math
from typing import Any

from patchwork.core.errors import DataError
from patchwork.data.drawing import SPEC_VERSION
from patchwork.data.grid import Grid, find_grid
from patchwork.data.picture_files import TooLargeError, read_gray
from patchwork.data.strokes import Strokes
from patchwork.models.transformer import record_attention
from patchwork.runs.picture_answers import PictureReader
from patchwork.runs.picture_lines import as_digit, is_sure
from patchwork.runs.run import Run
from patchwork.serve.guard import Refused


class Reader:
    """Answers requests with a run; see `PictureReader`, which says what it reads.

    Args:
        run: of task=seq2seq or task=classify.

    Raises:
        ConfigError: if it reads no digits.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.pictures = run, PictureReader(run)
        self.rows, self.cols = self.pictures.grid or (1, 1)

    def describe(self) -> dict[str, Any]:
        """Return what the model is."""
        return {
            **self.pictures.model,
            "model": self.run.manifest.get("model"),
            "rows": self.rows,
            "cols": self.cols,
            "parameters": sum(parameter.numel() for parameter in self.run.model.parameters()),
            "metrics": self.run.manifest.get("metrics", {}),
            "temperature": self.pictures.temperature,
            "threshold": self.pictures.threshold,
            "spec": SPEC_VERSION,
        }

    def read_strokes(self, strokes: Strokes) -> Grid:
        """Return the cells of a drawing, as many as the model reads."""
        return self.pictures.split_drawing(strokes.model_copy(update={"rows": self.rows, "cols": self.cols}))

    def read_picture(self, content: bytes) -> Grid:
        """Return the cells of a picture, as many as the model reads.

        Raises:
            Refused: if it is no picture, too large, or shows nothing.
        """
        try:
            gray = read_gray(content)
        except TooLargeError as error:
            raise Refused(413, "size", f"the picture {error}") from error
        except DataError as error:
            raise Refused(400, "image", "the body cannot be read as a picture") from error
        try:
            return find_grid(gray, self.rows, self.cols)
        except DataError as error:
            raise Refused(422, "values", f"the picture: {error}") from error

    def answer(self, grid: Grid) -> dict[str, Any]:
        """Return the digit of each cell with its probability, and the problem of a cell that has no digit."""
        answer = self.pictures.read_grid(grid)
        probabilities = answer.probabilities.tolist()
        digits = [
            {
                "digit": as_digit(token),
                "probability": round(probability, 6),
                "sure": is_sure(probability, self.pictures) if cell.problem is None else False,
                "problem": cell.problem,
            }
            for token, probability, cell in zip(answer.prediction.tolist(), probabilities, grid.cells, strict=True)
        ]
        return {"digits": digits, "probability": round(math.prod(probabilities), 6), "model": self.pictures.model}

    def explain(self, grid: Grid) -> dict[str, Any]:
        """Return the answer with the attention of each layer: weights (heads, queries, keys) of its last call."""
        with record_attention(self.run.model) as calls:
            answer = self.answer(grid)
        rounded = {name: call[-1].weights[0].mul(1e6).round().div(1e6).tolist() for name, call in calls.items()}
        return {**answer, "attention": rounded}
