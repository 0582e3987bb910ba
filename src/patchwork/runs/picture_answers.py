"""What a run reads in pictures of digits: an answer for each, in their order, predicted in batches."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from patchwork.core.errors import ConfigError, DataError, one_line
from patchwork.core.schema import choice_name
from patchwork.data.drawing import Drawing, split_strokes, strokes_to_image
from patchwork.data.grid import Box, Grid, find_grid
from patchwork.data.image_data import ImageSourceDataModule
from patchwork.data.picture_files import Picture
from patchwork.data.sources.mnist import DIGIT_NAMES
from patchwork.data.stitched import StitchedDataModule
from patchwork.data.strokes import Strokes
from patchwork.runs.run import Run
from patchwork.tasks import Classify, Predictions, Seq2Seq
from patchwork.training.checkpoint_io import weights_sha256

BATCH = 256  # pictures that are predicted together


@dataclass(frozen=True, eq=False)
class Answer:
    """What is read in a picture.

    Attributes:
        name: the picture's file.
        prediction: (T,) the digit of each cell in reading order, or of a run of seq2seq a token.
        log_probs: (T, C) the log-probabilities of all of them, each given those before it.
        boxes: where the ink of each cell is in the picture; None for a drawing.
        milliseconds: that reading and predicting took, its share of a batch.
    """

    name: str
    prediction: Tensor
    log_probs: Tensor
    boxes: tuple[Box | None, ...]
    milliseconds: float

    @property
    def probabilities(self) -> Tensor:
        """Return the probability (T,) of each digit, given those before it."""
        return self.log_probs.gather(-1, self.prediction[:, None]).squeeze(-1).exp()


@dataclass(frozen=True, eq=False)
class Failure:
    """A picture that is not answered, and why: `file` if it cannot be read, `image` if no digits are found in it."""

    name: str
    kind: str
    message: str


class PictureReader:
    """Reads pictures with a run.

    Args:
        run: of task=classify, which reads each cell by itself, or of task=seq2seq, which reads grids of its own size.
        rows: rows of digits; by default they are found.
        cols: digits in a row, likewise.

    Raises:
        ConfigError: if the run reads no digits, or other grids.
    """

    def __init__(self, run: Run, rows: int | None = None, cols: int | None = None) -> None:
        task, data = run.task, run.data
        name = choice_name(type(task))
        has_digits = isinstance(data, ImageSourceDataModule) and data.class_names == DIGIT_NAMES[: data.num_classes]
        if not isinstance(task, Classify | Seq2Seq) or not has_digits:
            raise ConfigError(f"run={run.run_dir} reads no digits in pictures: use one of task=seq2seq or classify")
        self.grid: tuple[int, int] | None = None  # that the model reads at once
        assert isinstance(data, ImageSourceDataModule)
        cell = data.image_shape[1:]
        if isinstance(data, StitchedDataModule):
            self.grid, cell = (data.rows, data.cols), (data.cell_size, data.cell_size)
        if cell != (28, 28):
            raise ConfigError(f"run={run.run_dir} is of task={name} with cells of {cell[0]}×{cell[1]}: 28×28 are read")
        for key, value, own in zip(("rows", "cols"), (rows, cols), self.grid or (None, None), strict=True):
            if own is not None and value not in (None, own):
                raise ConfigError(f"{key}={value} is not allowed: run={run.run_dir} reads {own}")
        self.run, self.rows, self.cols = run, rows, cols
        self.temperature = float(run.manifest.get("temperature", 1))
        self.threshold: float | None = run.manifest.get("threshold", {}).get("probability")
        self.model = {"task": name, "weights": f"sha256:{weights_sha256(task.state_dict())}"}

    def read(self, pictures: Iterable[Picture]) -> Iterator[Answer | Failure]:
        """Yield what is read in each picture, in order; a batch of them is in memory at a time."""
        waiting: list[tuple[str, Grid, float] | Failure] = []
        size = 0
        for picture in pictures:
            started = time.perf_counter()
            grid = self.find(picture)
            waiting.append(grid if isinstance(grid, Failure) else (picture.name, grid, time.perf_counter() - started))
            size += not isinstance(grid, Failure)
            if size == BATCH or len(waiting) == 4 * BATCH:
                yield from self.answer(waiting)
                waiting, size = [], 0
        yield from self.answer(waiting)

    def find(self, picture: Picture) -> Grid | Failure:
        """Return the cells of a picture."""
        content = picture.content
        if isinstance(content, DataError):
            return Failure(picture.name, "file", one_line(content))
        try:
            grid = self.split_drawing(content) if isinstance(content, Strokes) else self.find_cells(content)
        except DataError as error:
            return Failure(picture.name, "image", one_line(error))
        if self.grid is not None and (grid.rows, grid.cols) != self.grid:
            own = f"{self.grid[0]}×{self.grid[1]}"
            return Failure(picture.name, "image", f"found {grid.rows}×{grid.cols} digits, but the model reads {own}")
        for index, cell in enumerate(grid.cells):
            if cell.problem is not None:
                place = "" if len(grid.cells) == 1 else f" in row {index // grid.cols + 1}, col {index % grid.cols + 1}"
                what = "no ink" if cell.problem == "empty" else "too little ink for a digit"
                return Failure(picture.name, "image", f"{what}{place}")
        return grid

    def find_cells(self, gray: np.ndarray) -> Grid:
        return find_grid(gray, self.rows, self.cols)

    def split_drawing(self, drawing: Strokes) -> Grid:
        """Return the cells of a drawing, with as many as the options say, or itself, or the model reads, or one."""
        own = self.grid or (1, 1)
        rows, cols = self.rows or drawing.rows or own[0], self.cols or drawing.cols or own[1]
        side = min(drawing.width / cols, drawing.height / rows)
        parts = split_strokes(drawing.strokes, drawing.width, drawing.height, rows, cols)
        cells: list[Drawing] = [strokes_to_image(part, side) for part in parts]
        return Grid(rows, cols, tuple(cells), (None,) * len(cells))

    def answer(self, waiting: list[tuple[str, Grid, float] | Failure]) -> Iterator[Answer | Failure]:
        """Predict the pictures of a batch, and yield them and the failures in their order."""
        found = [item for item in waiting if not isinstance(item, Failure)]
        if not found:
            yield from (item for item in waiting if isinstance(item, Failure))
            return
        started = time.perf_counter()
        predictions = self.predict([grid for _, grid, _ in found])
        share = (time.perf_counter() - started) / len(found)
        assert predictions.log_probs is not None
        log_probs = (predictions.log_probs / self.temperature).log_softmax(dim=-1)
        lengths = [len(grid.cells) if self.grid is None else 1 for _, grid, _ in found]
        rows = zip(predictions.prediction.split(lengths), log_probs.split(lengths), strict=True)
        for item in waiting:
            if isinstance(item, Failure):
                yield item
                continue
            prediction, cell_log_probs = next(rows)
            if self.grid is not None:
                prediction, cell_log_probs = prediction[0], cell_log_probs[0]
            name, grid, seconds = item
            yield Answer(name, prediction, cell_log_probs, grid.boxes, 1000 * (seconds + share))

    def read_grid(self, grid: Grid) -> Answer:
        """Return the answer to one grid, whose cells may be empty."""
        (answer,) = self.answer([("", grid, 0.0)])
        assert isinstance(answer, Answer)
        return answer

    def predict(self, grids: list[Grid]) -> Predictions:
        """Predict grids: all cells as images, or each grid stitched to one."""
        cells = np.stack([cell.image for grid in grids for cell in grid.cells])
        if self.grid is not None:
            rows, cols = self.grid
            cells = cells.reshape(-1, rows, cols, 28, 28).swapaxes(2, 3).reshape(-1, rows * 28, cols * 28)
        return self.run.predict(torch.from_numpy(cells))
