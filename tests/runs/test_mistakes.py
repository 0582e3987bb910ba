"""The most confident mistakes: those with the highest probability, shown with what the model saw."""

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.plugins.precision import Precision
from torch import Tensor

from patchwork.runs.mistakes import NUM_MISTAKES, format_probability, mistake_samples, surest_mistakes
from patchwork.runs.predictions import predictions_path, read_table
from patchwork.runs.run import Run
from patchwork.tasks.predictions import Predictions


def make_predictions(target: Tensor, logits: Tensor | None) -> Predictions:
    count = len(target)
    prediction = torch.zeros(count, dtype=torch.long) if logits is None else logits.argmax(dim=1)
    return Predictions(
        index=torch.arange(count),
        image_ids=torch.arange(count)[:, None],
        target=target,
        prediction=prediction,
        log_probs=None if logits is None else logits.log_softmax(dim=1),
    )


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 99), count=st.integers(1, 30), limit=st.integers(1, 10))
def test_mistakes_are_the_surest_first(seed: int, count: int, limit: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    predictions = make_predictions(torch.randint(4, (count,), generator=rng), torch.randn(count, 4, generator=rng))
    rows = surest_mistakes(predictions, count - 1, limit)
    probability = predictions.probability.tolist()
    wrong = (predictions.prediction != predictions.target)[: count - 1].nonzero().squeeze(1).tolist()
    assert rows == sorted(wrong, key=lambda row: -probability[row])[:limit]


def test_without_mistakes_or_probabilities_there_are_none() -> None:
    logits = torch.eye(3)
    assert surest_mistakes(make_predictions(torch.arange(3), logits), 3, 5) == []
    assert surest_mistakes(make_predictions(torch.ones(3, dtype=torch.long), None), 3, 5) == []


def test_probabilities_are_never_shown_as_none() -> None:
    assert [format_probability(value) for value in (0.98765, 0.001, 1e-9)] == ["98.8%", "0.1%", "< 0.1%"]


def test_samples_are_those_of_the_table(finished_run: Path) -> None:
    run = Run.load(finished_run)
    predictions, _ = read_table(predictions_path(finished_run, "test"))
    run.data.prepare_data()
    samples = mistake_samples(run.task, run.data, predictions, Precision())
    rows = surest_mistakes(predictions, len(predictions), NUM_MISTAKES)
    assert len(samples) == len(rows) > 0
    for sample, row in zip(samples, rows, strict=True):
        assert "".join(sample.target) == run.task.format_answers(predictions.target[row][None])[0]
        assert "".join(sample.prediction) == run.task.format_answers(predictions.prediction[row][None])[0]
    assert (finished_run / "figures/mistakes.png").is_file()
