"""Play the predictions of all epochs of a run in the terminal."""

import os
import sys
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from patchwork.analysis.inputs import Snapshot
from patchwork.core.errors import DataError
from patchwork.core.terminal import is_terminal, terminal_width
from patchwork.data import Batch
from patchwork.figures.braille import legend, render, supports_unicode
from patchwork.runs.manifest import check_dataset
from patchwork.runs.page import read_history
from patchwork.runs.predictions import to_task
from patchwork.runs.run import Run
from patchwork.tasks.base import legend as symbol_legend

NUM_SAMPLES = 5
NUM_TRIED = 200  # samples among which those are chosen that were wrong most often
SECONDS = 0.7  # between two frames, if stdout is a terminal


@torch.inference_mode()
def play(run: Run) -> None:
    """Print validation samples with the predictions of every validation, in one place of a terminal.

    Of the first samples, those are shown that were wrong most often, and above them the share that was right.

    Raises:
        DataError: if the run was not watched, the data set is another one, or stdout cannot show Braille.
    """
    history = read_history(run.run_dir)
    if not history:
        raise DataError(f"{run.run_dir} has no weights of its epochs to replay: a training with watch=true keeps them")
    if not supports_unicode():
        raise DataError("stdout cannot show Braille: use a terminal with UTF-8")
    run.data.prepare_data()
    check_dataset(run.manifest, run.data)
    tried = to_task(run.task, run.data.make_batch("val", (0, 0), slice(0, NUM_TRIED)))
    right = [answered_right(run, snapshot, tried) for snapshot in history]
    batch = {name: values[most_often_wrong(right)] for name, values in tried.items()}
    terminal = is_terminal(sys.stdout)
    color = terminal and "NO_COLOR" not in os.environ
    print(legend(color=color))
    lines = 0
    for snapshot, correct in zip(history, right, strict=True):
        run.task.load_state_dict(snapshot.state_dict)
        with run.precision.forward_context():
            samples = run.task.eval().samples(batch, NUM_SAMPLES)
        share = "" if correct is None else f", {float(correct.double().mean()):.1%} of {len(correct)} right"
        picture = render(samples, color=color, width=terminal_width())
        frame = f"epoch {snapshot.epoch}, step {snapshot.step:,}{share}\n{picture}"
        if symbols := symbol_legend(samples, run.task.symbols):
            frame += f"\n({symbols})"
        if terminal and lines:
            time.sleep(SECONDS)
            sys.stdout.write(f"\x1b[{lines}A\x1b[J")  # to where the frame before began
        print(frame, flush=True)
        lines = frame.count("\n") + 1


def answered_right(run: Run, snapshot: Snapshot, batch: Batch) -> Tensor | None:
    """Return which samples (B,) a run had right at a validation; None if its answers are neither right nor wrong."""
    if not run.task.saves_predictions:
        return None
    run.task.load_state_dict(snapshot.state_dict)
    with run.precision.forward_context():
        return run.task.eval().predict_step(batch, 0).correct


def most_often_wrong(right: Sequence[Tensor | None]) -> Tensor:
    """Return the samples (NUM_SAMPLES,) that were wrong at most validations, in order; the first if all were right."""
    known = [each for each in right if each is not None]
    if not known:
        return torch.arange(NUM_SAMPLES)
    wrong = (~torch.stack(known)).sum(dim=0)
    return wrong.argsort(descending=True, stable=True)[:NUM_SAMPLES].sort().values
