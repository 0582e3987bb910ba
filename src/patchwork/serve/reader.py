"""A trained model that answers drawings and pictures: digits with calibrated probabilities, and its attention."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Interval, Len
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, FiniteFloat, model_validator
from torch import Tensor

from patchwork.core.errors import ConfigError
from patchwork.core.schema import choice_name
from patchwork.data.drawing import SIDE, SPEC_VERSION, Drawing, bitmap_to_image, split_strokes, strokes_to_image
from patchwork.data.image_data import ImageSourceDataModule
from patchwork.data.image_files import FORMATS, to_gray
from patchwork.data.stitched import StitchedDataModule
from patchwork.models.transformer import record_attention
from patchwork.runs.predictions import predict_images
from patchwork.runs.run import Run
from patchwork.serve.guard import Refused
from patchwork.tasks import Classify, Seq2Seq
from patchwork.training.checkpoint_io import weights_sha256

MAX_PIXELS, MAX_SIDE = 40_000_000, 16_384  # of a picture
MAX_POINTS = 20_000  # of a drawing

Coordinate = Annotated[FiniteFloat, Interval(ge=-1e5, le=1e5)]
Size = Annotated[FiniteFloat, Interval(gt=0, le=1e5)]
Stroke = list[tuple[Coordinate, Coordinate]]


class Strokes(BaseModel):
    """A drawing on a canvas that has the cells of the model's grid.

    Attributes:
        strokes: points (x, y) of each stroke, x to the right and y down.
        width: of the canvas, in the same units.
        height: of the canvas.
    """

    model_config = ConfigDict(extra="forbid")

    strokes: Annotated[list[Stroke], Len(0, 500)]
    width: Size
    height: Size

    @model_validator(mode="after")
    def limit_points(self) -> "Strokes":
        if sum(map(len, self.strokes)) > MAX_POINTS:
            raise ValueError(f"a drawing has at most {MAX_POINTS:,} points")
        return self


@dataclass(eq=False)
class Reader:
    """A run of `task=seq2seq` or `task=classify` that answers.

    Args:
        run: the run.

    Raises:
        ConfigError: if it is of another task.
    """

    run: Run

    def __post_init__(self) -> None:
        if not isinstance(self.run.task, Seq2Seq | Classify) or not isinstance(self.run.data, ImageSourceDataModule):
            raise ConfigError(
                f"run={self.run.run_dir} is of task={choice_name(type(self.run.task))}, which reads no drawings: use a "
                "run of task=seq2seq or task=classify"
            )
        data = self.run.data
        self.rows, self.cols = (data.rows, data.cols) if isinstance(data, StitchedDataModule) else (1, 1)
        self.temperature = float(self.run.manifest.get("temperature", 1.0))
        self.threshold = float((self.run.manifest.get("threshold") or {}).get("probability") or 0.0)
        self.sha256 = weights_sha256(self.run.task.state_dict())

    def describe(self) -> dict[str, Any]:
        """Return what the model is."""
        return {
            "task": self.run.manifest.get("task"),
            "model": self.run.manifest.get("model"),
            "rows": self.rows,
            "cols": self.cols,
            "classes": list(self.run.task.class_names or map(str, range(10))),
            "parameters": sum(parameter.numel() for parameter in self.run.model.parameters()),
            "weights_sha256": self.sha256,
            "metrics": self.run.manifest.get("metrics", {}),
            "temperature": self.temperature,
            "threshold": self.threshold,
            "spec": SPEC_VERSION,
        }

    def read_strokes(self, given: Strokes) -> list[Drawing]:
        """Return the drawing of each cell as an image of MNIST."""
        cells = split_strokes(given.strokes, given.width, given.height, self.rows, self.cols)
        cell_size = min(given.width / self.cols, given.height / self.rows)
        return [strokes_to_image(strokes, cell_size) for strokes in cells]

    def read_picture(self, content: bytes) -> list[Drawing]:
        """Return the picture of each cell as an image of MNIST; the cells are of equal size.

        Raises:
            Refused: if it is no picture, or too large.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # there is a limit of our own
                with Image.open(io.BytesIO(content), formats=FORMATS) as file:
                    if file.width * file.height > MAX_PIXELS or max(file.size) > MAX_SIDE:
                        raise Image.DecompressionBombError
                    file.load()
                    gray = to_gray(ImageOps.exif_transpose(file), ground=None)
        except Image.DecompressionBombError as error:
            message = f"a picture has at most {MAX_PIXELS:,} pixels, {MAX_SIDE:,} a side"
            raise Refused(413, "size", message) from error
        except Exception as error:  # decoders raise errors of every type on damaged files
            raise Refused(400, "image", "the body cannot be read as a picture") from error
        pixels = np.rint(gray).clip(0, 255).astype(np.uint8)
        if min(pixels.shape) < max(self.rows, self.cols):
            raise Refused(422, "values", f"the picture is smaller than the grid of {self.rows}×{self.cols}")
        rows = np.array_split(pixels, self.rows)
        cells = [cell for row in rows for cell in np.array_split(row, self.cols, axis=1)]
        return [bitmap_to_image(np.ascontiguousarray(cell)) for cell in cells]

    def answer(self, cells: Sequence[Drawing]) -> dict[str, Any]:
        """Return the answer to an image of each cell, with the probability of each digit."""
        predictions = predict_images(self.run.task, self.run.data, self.stitch(cells), precision=self.run.precision)
        assert predictions.log_probs is not None
        log_probs = (predictions.log_probs[0] / self.temperature).log_softmax(dim=-1).reshape(len(cells), -1)
        tokens = predictions.prediction[0].reshape(-1).tolist()
        chosen = [float(log_probs[place, token].exp()) for place, token in enumerate(tokens)]
        names = list(self.run.task.format_answers(predictions.prediction.reshape(-1, 1))) if len(tokens) == 1 else None
        digits = [
            {
                "answer": names[0] if names else str(token) if token < log_probs.shape[-1] - 2 else None,
                "probability": round(probability, 6),
                "sure": cell.problem is None and probability >= self.threshold,
                "problem": cell.problem,
            }
            for token, probability, cell in zip(tokens, chosen, cells, strict=True)
        ]
        return {"digits": digits, "probability": round(float(np.prod(chosen)), 6), "weights_sha256": self.sha256}

    def explain(self, cells: Sequence[Drawing]) -> dict[str, Any]:
        """Return the answer with the attention of each layer: weights (heads, queries, keys) of its last call."""
        with record_attention(self.run.model) as calls:
            answer = self.answer(cells)
        rounded = {name: call[-1].weights[0].mul(1e6).round().div(1e6).tolist() for name, call in calls.items()}
        return {**answer, "attention": rounded}

    def stitch(self, cells: Sequence[Drawing]) -> Tensor:
        """Return the images of cells as one image (1, H, W)."""
        images = torch.from_numpy(np.stack([cell.image for cell in cells])).view(self.rows, self.cols, SIDE, SIDE)
        return images.permute(0, 2, 1, 3).reshape(1, self.rows * SIDE, self.cols * SIDE)
