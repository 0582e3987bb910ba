from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analysis_helpers import build_small
from helpers import TINY

from patchwork.analysis import generation, matches, sums
from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.result import NotApplicableError
from patchwork.figures import generation as generation_figure
from patchwork.figures import matches as matches_figure
from patchwork.figures import sums as sums_figure
from patchwork.tasks import Predictions

PIXELS = ["task=pixels", "dataset=uci", "model=pixel_transformer_tiny"]
SUM = ["task=sum", "dataset=uci", "model.embed_dim=16", "data.test_lengths=[]"]
ANCHOR = ["task=anchor", "dataset=uci", "model.embed_dim=16"]


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "NUM_IMAGES", 12)
    monkeypatch.setattr(generation, "NUM_SHOWN", 2)
    monkeypatch.setattr(sums, "NUM_SEQUENCES", 40)
    monkeypatch.setattr(matches, "NUM_SEQUENCES", 60)


def make_inputs(overrides: list[str]) -> AnalysisInputs:
    data, task = build_small(overrides)
    inputs = AnalysisInputs.from_task(task, data)
    torch.manual_seed(0)
    for parameter in inputs.task.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return inputs


# --- generator -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", ["patch4x4", "patch2x2"])
def test_bits_are_the_likelihood_and_weights_are_causal(tokenizer: str, tmp_path: Path) -> None:
    inputs = make_inputs([*PIXELS, f"model.tokenizer={tokenizer}"])
    result = generation.analyze(inputs)
    batch = inputs.first(12)
    nats = -inputs.task(batch).numpy()
    assert result.bits.sum(axis=1) * np.log(2) == pytest.approx(nats)
    own = result.class_bits[np.arange(12), result.labels]
    assert own == pytest.approx(result.bits.sum(axis=1))
    assert result.weights.sum(axis=-1) == pytest.approx(1, abs=1e-5)
    for index, places in enumerate(result.hard.tolist()):
        assert result.bits[index, places[0]] == result.bits[index].max()
        for which, place in enumerate(places):
            assert (result.weights[index, which, :, place + 1 :] == 0).all()  # it sees the condition and what is before
    result.save(tmp_path)
    assert generation_figure.render(generation.Generation.load(tmp_path)) == generation_figure.render(result)


def test_what_was_expected_is_shown_as_it_would_be_drawn() -> None:
    inputs = make_inputs(PIXELS)
    result = generation.analyze(inputs)
    assert (result.considered_probs > 0).all()
    assert (np.diff(result.considered_probs, axis=-1) <= 0).all()
    assert set(np.unique(result.considered)) <= {0, 255}
    assert result.considered.shape[-1] == result.actual.shape[-1]


def test_what_was_expected_is_as_likely_as_the_model_says() -> None:
    inputs = make_inputs(PIXELS)
    model: Any = inputs.task.model
    batch = inputs.first(1)
    tokens, hard = model.tokenize(batch["image"]), torch.tensor([[20]])
    _, probs = generation.considered_patches(model, batch["label"], tokens, hard)
    greedy, log_prob = tokens.clone(), 0.0
    for position in range(tokens.shape[2]):
        logits = model(model.detokenize(greedy).double(), batch["label"])[0, 20, position].log_softmax(dim=-1)
        greedy[0, 20, position] = logits.argmax()
        log_prob += float(logits.max())
    assert 0 < probs.sum() <= 1
    assert probs[0, 0, 0] >= np.exp(log_prob) * (1 - 1e-9)
    likelihood = generation.surprise(model(model.detokenize(greedy).double(), batch["label"]), greedy)[0, 20]
    assert np.exp2(-float(likelihood)) == pytest.approx(np.exp(log_prob))


def test_patches_are_cut_in_reading_order() -> None:
    image = torch.arange(16.0).reshape(1, 4, 4) / 15
    patches = generation.cut_patches(image, 4)
    assert (patches[0, 1] / 17).round().tolist() == [[2, 3], [6, 7]]


# --- sums ------------------------------------------------------------------------------------------------------------


def test_a_sum_is_the_convolution_of_its_images(tmp_path: Path) -> None:
    inputs = make_inputs(SUM)
    inputs.predictions["test"] = inputs.task.predict_step(inputs.first(40), 0)  # type: ignore[index]
    result = sums.analyze(inputs)
    assert result.remainder < 1e-12
    assert result.errors.sum() == 40
    table = inputs.saved_predictions()
    assert table.target is not None
    assert result.errors[:, sums.LARGEST_ERROR].sum() == int((table.prediction == table.target).sum())
    result.save(tmp_path)
    assert sums_figure.render(sums.Sums.load(tmp_path)) == sums_figure.render(result)


def test_an_exchange_moves_a_true_sum_by_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(SUM)
    batch = inputs.first(40)
    known = {
        image.numpy().tobytes(): int(digit)
        for image, digit in zip(batch["image"].flatten(0, 1), batch["digits"].flatten(), strict=True)
    }

    def add_up(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        digits = [[known[image.numpy().tobytes()] for image in images] for images in batch["image"]]
        return (torch.tensor(digits).double() * batch["mask"]).sum(dim=1)

    monkeypatch.setattr(inputs.task, "forward", add_up)
    change, moved, images = sums.exchange(inputs.task, batch)
    assert len(change)
    assert torch.equal(change, moved)
    assert images.shape == (len(change), batch["image"].shape[1] + 1)


def test_errors_are_counted_by_length() -> None:
    ids = torch.tensor([[0, -1], [1, -1], [2, 3], [4, 5]])
    table = Predictions(torch.arange(4), ids, torch.tensor([1, 2, 3, 4]), torch.tensor([1, 9, 2, 4]))
    lengths, errors, intervals = sums.count_errors(table)
    assert lengths.tolist() == [1, 2]
    assert errors.tolist() == [[0, 0, 0, 1, 0, 0, 1], [0, 0, 1, 1, 0, 0, 0]]
    assert (intervals[:, 0] < 0.5).all()
    assert (intervals[:, 1] > 0.5).all()


# --- anchors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", ["cosine", "cross_attention"])
def test_attention_is_shared_between_matches_others_and_nothing(similarity: str, tmp_path: Path) -> None:
    inputs = make_inputs([*ANCHOR, f"model.similarity={similarity}"])
    result = matches.analyze(inputs)
    assert np.nansum(result.shares[..., 0], axis=1) == pytest.approx(1)
    assert (result.shares[:, 2, 0] > 1e-9).all() == (similarity == "cosine")
    batch = inputs.first(60)
    assert result.matching.sum() == int(batch["match"].sum())
    assert result.others.sum() == int((batch["mask"] & ~batch["match"]).sum())
    result.save(tmp_path)
    assert matches_figure.render(matches.Matches.load(tmp_path)) == matches_figure.render(result)


def test_a_planted_detector_is_never_fooled(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(ANCHOR)

    def locate(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        match = batch["match"].double()
        return match.sum(dim=1), match / match.sum(dim=1, keepdim=True).clamp_min(1)

    monkeypatch.setattr(inputs.task, "locate", locate)
    result = matches.analyze(inputs)
    assert result.located[0] == 1
    assert result.shares[0, 0, 0] == 1
    assert result.shares[1, 2, 0] == 1
    assert (result.fooled == 0).all()


def test_sequences_of_one_kind_have_no_rates_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inputs, first = make_inputs(ANCHOR), AnalysisInputs.first

    def without_match(inputs: AnalysisInputs, count: int) -> dict[str, torch.Tensor]:
        batch = first(inputs, count)
        return {name: values[~batch["match"].any(dim=1)] for name, values in batch.items()}

    monkeypatch.setattr(AnalysisInputs, "first", without_match)
    result = matches.analyze(inputs)
    result.save(tmp_path)
    assert "located" not in result.numbers()
    assert matches_figure.render(result).claims == ()


def test_sums_of_equal_digits_have_no_slope(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inputs, first = make_inputs(SUM), AnalysisInputs.first
    inputs.predictions["test"] = inputs.task.predict_step(inputs.first(40), 0)  # type: ignore[index]
    monkeypatch.setattr(AnalysisInputs, "first", lambda inputs, _: first(inputs, 1))
    result = sums.analyze(inputs)
    result.save(tmp_path)
    assert "slope" not in (tmp_path / "numbers.json").read_text()
    assert sums_figure.render(result).claims == ()


@pytest.mark.parametrize("module", [generation, sums, matches])
def test_other_tasks_are_refused(module: Any) -> None:
    with pytest.raises(NotApplicableError):
        module.analyze(make_inputs(TINY))
