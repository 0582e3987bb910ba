import pytest
import torch
from analysis_helpers import build_small
from helpers import TINY

from patchwork.analysis.inputs import AnalysisInputs, logit_difference, select_samples, top_two
from patchwork.analysis.result import NotApplicableError

TASKS = {
    "seq2seq": TINY,
    "classify": ["task=classify", "dataset=uci"],
    "sum": ["task=sum", "dataset=uci", "data.test_lengths=[7]", "data.max_length=3"],
    "anchor": ["task=anchor", "dataset=uci"],
    "icons": ["task=icons"],
}


@pytest.mark.parametrize("name", TASKS)
def test_answers_are_those_that_are_predicted(name: str) -> None:
    data, task = build_small(TASKS[name])
    inputs = AnalysisInputs.from_task(task, data)
    with torch.no_grad():
        for parameter in inputs.task.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    batch = inputs.first(20)
    predictions, logits = inputs.task.predict_step(batch, 0), inputs.task.answer_logits(batch)
    assert logits.dtype == torch.float64
    if logits.shape[-1] > 1:
        predicted, runner_up = top_two(logits)
        assert torch.equal(predicted, predictions.prediction.reshape(predicted.shape))
        assert (logit_difference(logits, predicted, runner_up) >= 0).all()
        assert torch.equal(logit_difference(logits + 5, predicted, predicted), torch.zeros(predicted.shape).double())
    assert task.model is not inputs.task.model
    assert next(task.parameters()).dtype == torch.float32


@pytest.mark.parametrize("name", ["seq2seq", "sum"])
def test_samples_are_selected_in_order(name: str) -> None:
    data, _ = build_small(TASKS[name])
    last = data.num_samples["test"] - 1
    batch = select_samples(data, "test", torch.tensor([17, 3, last, 17]))
    assert batch["index"].tolist() == [17, 3, last, 17]
    for key in ("image", "digits"):
        assert torch.equal(batch[key][0], batch[key][3])
    single = select_samples(data, "test", torch.tensor([3]))
    size = single["digits"].shape[1]
    assert torch.equal(batch["digits"][1, :size], single["digits"][0])


def test_missing_predictions_are_not_applicable() -> None:
    data, task = build_small(TASKS["classify"])
    with pytest.raises(NotApplicableError, match="has no predictions"):
        AnalysisInputs.from_task(task, data).saved_predictions()
