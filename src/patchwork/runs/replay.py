"""Play the predictions of all epochs of a run in the terminal."""

import os
import sys
import time

import torch

from patchwork.core.errors import DataError
from patchwork.core.terminal import is_terminal, terminal_width
from patchwork.figures.braille import legend, render, supports_unicode
from patchwork.runs.page import read_history
from patchwork.runs.predictions import to_task
from patchwork.runs.run import Run

NUM_SAMPLES = 5
SECONDS = 0.7  # between two frames, if stdout is a terminal


@torch.inference_mode()
def play(run: Run) -> None:
    """Print the first validation samples with the predictions of every validation, in one place of a terminal.

    Raises:
        DataError: if the run was not watched, or stdout cannot show Braille.
    """
    history = read_history(run.run_dir)
    if not history:
        raise DataError(f"{run.run_dir} has no weights of its epochs to replay: a training with watch=true keeps them")
    if not supports_unicode():
        raise DataError("stdout cannot show Braille: use a terminal with UTF-8")
    run.data.prepare_data()
    batch = to_task(run.task, run.data.make_batch("val", (0, 0), slice(0, NUM_SAMPLES)))
    terminal = is_terminal(sys.stdout)
    color = terminal and "NO_COLOR" not in os.environ
    print(legend(color=color))
    lines = 0
    for snapshot in history:
        run.task.load_state_dict(snapshot.state_dict)
        with run.precision.forward_context():
            samples = run.task.eval().samples(batch, NUM_SAMPLES)
        frame = (
            f"epoch {snapshot.epoch}, step {snapshot.step:,}\n{render(samples, color=color, width=terminal_width())}"
        )
        if terminal and lines:
            time.sleep(SECONDS)
            sys.stdout.write(f"\x1b[{lines}A\x1b[J")  # to where the frame before began
        print(frame, flush=True)
        lines = frame.count("\n") + 1
