from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from analysis_helpers import build_small
from helpers import TINY

from patchwork.analysis import embeddings, neighbors, probes
from patchwork.analysis.features import (
    HEAD,
    first_samples,
    layer_features,
    mean_by_cell,
    num_samples_with,
    one_of_each_image,
)
from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.probes import PIXELS, Labels, analyze, majority, probe, readable
from patchwork.analysis.result import NotApplicableError
from patchwork.figures import embeddings as embeddings_figure
from patchwork.figures import neighbors as neighbors_figure
from patchwork.figures import probes as probes_figure
from patchwork.models.transformer import Block
from patchwork.tasks import Predictions
from patchwork.tasks.predictions import ClassAnswers

VIT = ["task=classify", "dataset=uci", "model.stem=null", "model.embed_dim=16", "model.patch_size=14"]
TASKS = {
    "reader": [*TINY, "data.val_size=64", "data.test_size=64"],
    "vit": VIT,
    "class token": [*VIT, "model.pool=cls"],
    "icons": ["task=icons", "model.stem=null", "model.embed_dim=16"],
    "sums": ["task=sum", "dataset=uci", "model=sequence_regressor", "model.embed_dim=16"],
}


def make_inputs(overrides: list[str]) -> AnalysisInputs:
    """Return a task and another with the same architecture as its control, with their predictions."""
    data, task = build_small([*overrides, "data.eval_batch_size=64"])
    _, control = build_small([*overrides, "seed=1"])
    inputs = AnalysisInputs.from_task(task, data, untrained=control)
    for split in ("val", "test"):
        batch = inputs.batch(torch.arange(60), split)
        with torch.no_grad():
            predictions = inputs.task.predict_step(batch, 0)
        inputs.predictions[split] = Predictions.from_tensors({**predictions.tensors()})  # type: ignore[index]
    return inputs


@pytest.mark.parametrize(
    "name",
    ["reader", "class token", *(pytest.param(each, marks=pytest.mark.slow) for each in ("vit", "icons", "sums"))],
)
def test_layers_are_probed_and_mapped(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(TASKS[name])
    before = {key: value.clone() for key, value in inputs.task.state_dict().items()}
    result = analyze(inputs)
    assert result.layers[-1] == PIXELS
    assert result.accuracy.shape == result.untrained.shape == (len(result.variables), len(result.layers), 3)
    assert (result.accuracy[..., 1] <= result.accuracy[..., 0]).all()
    assert (result.accuracy[..., 0] <= result.accuracy[..., 2]).all()
    assert (result.accuracy[:, -1] == result.untrained[:, -1]).all()  # pixels know no weights
    assert not any("shuffled" in each for each in result.numbers())  # labels that no probe could know are no control
    if name == "reader":
        assert result.variables == ("digit", "digit of the previous cell", "digit of the next cell")
        decoder = result.layers.index("decoder.0.input")
        assert result.accuracy[1, decoder, 0] == 1  # a decoder reads the answer before
    if name == "class token":
        assert "blocks.0, class token" in result.layers
    result.save(tmp_path)
    assert probes_figure.render(probes.Probes.load(tmp_path)) == probes_figure.render(result)
    if name not in ("reader", "class token"):
        return
    monkeypatch.setattr(embeddings, "NUM_POINTS", 120)
    mapped = embeddings.analyze(inputs)
    assert mapped.points.shape[1:] == (len(mapped.label), 2)
    assert (*mapped.earlier, mapped.layer) == result.layers[:-1]  # a map after each layer
    assert mapped.earlier_points.shape == (len(mapped.earlier), len(mapped.label), 2)
    assert all(name in embeddings_figure.render(mapped).html for name in mapped.earlier)
    mapped.save(tmp_path)
    loaded = embeddings.Embeddings.load(tmp_path)
    assert embeddings_figure.render(loaded) == embeddings_figure.render(mapped)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in inputs.task.modules())
    assert all(torch.equal(before[key], value) for key, value in inputs.task.state_dict().items())


@pytest.mark.parametrize("name", ["reader", "vit"])
def test_a_mistake_is_nearest_to_itself_in_training(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(TASKS[name])
    monkeypatch.setattr(
        neighbors, "training_samples", lambda inputs, _: first_samples(inputs, inputs.split, 240)
    )  # the test samples themselves
    result = neighbors.analyze(inputs)
    assert np.array_equal(result.near[:, 0], result.images)
    assert np.array_equal(result.near_target[:, 0], result.target)
    assert (np.diff(result.probability) <= 0).all()
    result.save(tmp_path)
    assert neighbors_figure.render(neighbors.Neighbors.load(tmp_path)) == neighbors_figure.render(result)


def test_mistakes_are_followed_in_parts_and_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(TASKS["reader"])
    whole = neighbors.analyze(inputs)
    assert len(whole.votes) > 20
    monkeypatch.setattr(neighbors, "CHUNK", 7)
    parts = neighbors.analyze(inputs)
    assert np.array_equal(parts.votes, whole.votes)
    assert np.array_equal(parts.near, whole.near)
    monkeypatch.setattr(neighbors, "MAX_MISTAKES", 20)
    few = neighbors.analyze(inputs)
    assert len(few.votes) == 20
    answers = inputs.task.class_answers(inputs.saved_predictions())["all cells"]
    last = (answers.target != answers.prediction).nonzero()[19].item()
    assert few.unit == f"{last + 1} answers in test grids"


def test_probability_of_a_part_of_a_class_is_that_of_all_classes_with_it() -> None:
    inputs = make_inputs(TASKS["icons"])
    task, predictions = inputs.task, inputs.saved_predictions()
    table = predictions.log_probs.exp().unflatten(1, task.factor_sizes)
    for dim, name in enumerate(task.factors):
        others = [other + 1 for other in range(len(task.factors)) if other != dim]
        answer = task.class_answers(predictions)[name].prediction
        expected = table.sum(dim=others).gather(1, answer[:, None])[:, 0]
        torch.testing.assert_close(neighbors.probabilities(inputs, name), expected)


def test_training_samples_are_looked_among() -> None:
    inputs = make_inputs(TASKS["vit"])
    samples = neighbors.training_samples(inputs, 100)
    batch = inputs.data.make_batch("train", (0, 0), slice(None))
    assert torch.equal(samples.batch["image"][:8].float(), batch["image"][:8])
    assert torch.equal(samples.answers.target[:8], batch["label"][:8])


def test_blocks_that_add_nothing_are_read_alike() -> None:
    inputs = make_inputs([*VIT, "model.depth=3"])
    for block in inputs.task.model.modules():
        if isinstance(block, Block):
            for parameter in (*block.attn.parameters(), *block.mlp.parameters()):
                parameter.zero_()
    accuracy = analyze(inputs).accuracy[0, :, 0]
    assert (accuracy[:4] == accuracy[0]).all()  # the input and three blocks, to the sample


def test_without_an_untrained_network_it_is_refused_and_without_blocks_the_head_is_read() -> None:
    data, task = build_small(VIT)
    with pytest.raises(NotApplicableError, match="untrained"):
        analyze(AnalysisInputs.from_task(task, data))
    inputs = make_inputs(["task=classify", "dataset=uci", "model=cnn"])
    assert [*layer_features(inputs.task, first_samples(inputs, "test", 10))] == [HEAD]


def test_patches_are_averaged_by_cell() -> None:
    tokens = torch.arange(24.0).reshape(1, 4, 6, 1)
    mean = mean_by_cell(tokens, (2, 3))
    assert mean[0, :, 0].tolist() == [3.5, 5.5, 7.5, 15.5, 17.5, 19.5]


def test_a_patch_belongs_to_the_cell_that_its_center_is_in() -> None:
    row = torch.arange(5.0).reshape(1, 1, 5, 1)  # of 3 cells; centers at 0.3, 0.9, 1.5, 2.1 and 2.7 of them
    assert mean_by_cell(row, (1, 3))[0, :, 0].tolist() == [0.5, 2, 3.5]
    few = mean_by_cell(row[:, :, :2], (1, 3))[0, :, 0]
    assert few[[0, 2]].tolist() == [0, 1]
    assert few[1].isnan()  # no patch, and not one of zeros


def test_layers_with_fewer_patches_than_cells_are_left_out() -> None:
    inputs = make_inputs([*TASKS["reader"], "data.rows=2", "data.cols=4", "model.patch_size=56"])  # 1×2 patches
    layers = layer_features(inputs.task, first_samples(inputs, "test", 40))
    assert not any(name.startswith("encoder") for name in layers)
    assert all(values.isfinite().all() for values in layers.values())


def test_padding_is_no_answer() -> None:
    ids = torch.tensor([[0, 1, -1], [2, -1, -1], [3, 4, 5], [6, -1, -1]])
    assert [num_samples_with(count, ids) for count in (1, 3, 5, 6, 9)] == [1, 2, 2, 3, 4]
    assert num_samples_with(6, torch.full((4, 3), -1)) == 2


# --- the probe -------------------------------------------------------------------------------------------------------


def labels_of(target: np.ndarray, offset: int = 0) -> Labels:
    return Labels(target, np.ones(len(target), bool), np.arange(len(target)) + offset)


def test_a_planted_direction_with_known_noise_is_read_as_well_as_can_be() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8000, 4))
    target = ((x[:, 2] > 0) ^ (rng.random(8000) < 0.1)).astype(int)
    value, low, high = probe(x[:4000], labels_of(target[:4000]), x[4000:], labels_of(target[4000:]))
    assert value == pytest.approx(0.9, abs=0.01)
    assert low < 0.9 < high


def test_what_is_not_linear_and_what_is_random_is_not_read() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(8000, 10))
    xor = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(int)
    value, *_ = probe(x[:4000], labels_of(xor[:4000]), x[4000:], labels_of(xor[4000:]))
    assert value == pytest.approx(0.5, abs=0.025)
    digits = rng.integers(0, 10, 8000)
    value, low, high = probe(x[:4000], labels_of(digits[:4000]), x[4000:], labels_of(digits[4000:]))
    assert low < 0.1 < high


def test_only_cells_that_have_a_neighbor_are_asked_for_it() -> None:
    inputs = make_inputs(TASKS["reader"])
    samples = first_samples(inputs, "test", 40)
    labels = readable(samples.kinds)
    digits = samples.batch["digits"]
    following = labels["digit of the next cell"]
    valid = following.valid.reshape(digits.shape)
    assert valid[:, :-1].all()
    assert not valid[:, -1].any()
    assert np.array_equal(following.target.reshape(digits.shape)[:, :-1], digits[:, 1:])
    assert majority(labels["digit"], labels["digit"]) == np.bincount(digits.flatten()).max() / digits.numel()


# --- maps and clusters -----------------------------------------------------------------------------------------------


def test_planted_clusters_are_found_and_one_gaussian_has_none() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(10), 60)
    points = rng.normal(size=(10, 8))[label] * 20 + rng.normal(size=(600, 8))
    cluster = embeddings.hdbscan(points)
    scores = dict(zip(embeddings.SCORES, embeddings.score(points, label, cluster), strict=True))
    assert scores["HDBSCAN clusters"] == 10
    assert scores["HDBSCAN ARI"] >= 0.99
    assert scores["k-means ARI"] >= 0.99
    assert scores["accuracy of 15 neighbors"] == 1
    mixed = rng.permutation(label)
    assert (
        abs(dict(zip(embeddings.SCORES, embeddings.score(points, mixed, cluster), strict=True))["k-means ARI"]) < 0.02
    )
    assert embeddings.hdbscan(rng.normal(size=(500, 8))).max() == -1


def test_noise_is_in_no_cluster() -> None:
    """Taken as one cluster, noise of all classes would make the clusters of pure points impure."""
    points = np.random.default_rng(0).normal(size=(60, 2))
    label, cluster = np.arange(60) % 2, np.where(np.arange(60) < 20, np.arange(60) % 2, -1)
    scores = dict(zip(embeddings.SCORES, embeddings.score(points, label, cluster), strict=True))
    assert scores["homogeneity"] == pytest.approx(1)
    assert scores["completeness"] < 0.5


def test_an_image_that_grids_share_is_one_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "NUM_POINTS", 200)
    inputs = make_inputs(TASKS["reader"])
    ids = first_samples(inputs, "test", 200).answers.image_id
    assert len(ids.unique()) < 200
    assert len(embeddings.analyze(inputs).label) == len(ids.unique())
    answers = ClassAnswers(*torch.zeros(2, 6).long(), torch.arange(6) // 2, torch.arange(6) % 2, torch.zeros(6), ())
    for image_id, whole, kept in (
        ([0, 1, 1, 2, 3, 0], False, [0, 1, 3, 4]),
        ([0, 0, 1, 1, 2, 2], True, [0, 1, 2, 3, 4, 5]),  # whole images, of which a cell is no copy of another
        ([-1] * 6, False, [0, 1, 2, 3, 4, 5]),
    ):
        known = replace(answers, image_id=torch.tensor(image_id))
        one = one_of_each_image(known, whole=whole)
        assert (2 * one.sample + one.cell).tolist() == kept


def test_pca_explains_a_known_covariance_and_does_not_mind_the_sign() -> None:
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.normal(size=(200, 3)) - 0.0)[0]
    left = np.linalg.qr(left - left.mean(axis=0))[0]
    values = left * [3.0, 2.0, 1.0]
    _, coordinates, shares = embeddings.principal_axes(values)
    assert shares[:3] == pytest.approx(np.array([9, 4, 1]) / 14, abs=1e-6)
    assert embeddings.reduce(values).shape[1] == 3
    x = rng.exponential(size=(100, 4))
    assert np.allclose(embeddings.principal_axes(-x)[1], embeddings.principal_axes(x)[1])
    assert coordinates.shape == (200, 3)


def test_a_map_is_trusted_as_far_as_it_keeps_neighbors() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(600, 2))
    assert embeddings.map_quality(points, points) == (1.0, 1.0)
    trust, kept = embeddings.map_quality(points, rng.permutation(points))
    assert trust == pytest.approx(0.5, abs=0.05)
    assert kept < 0.1


def test_positions_are_no_clusters() -> None:
    inputs = make_inputs(TASKS["reader"])
    samples = first_samples(inputs, "test", 240)
    space = embeddings.layer_spaces(inputs.task, samples)[HEAD]
    cell = samples.answers.cell.numpy()
    assert max(np.abs(space[cell == each].mean(axis=0)).max() for each in range(4)) < 1e-12


def test_the_sum_so_far_is_read_at_each_image() -> None:
    inputs = make_inputs(TASKS["sums"])
    samples = first_samples(inputs, "test", 30)
    assert [*samples.kinds] == ["digit", "sum so far"]
    sums, batch = samples.kinds["sum so far"], samples.batch
    last = torch.stack([sums.target[sums.sample == row][-1] for row in range(len(batch["digits"]))])
    assert torch.equal(last, (batch["digits"] * batch["mask"]).sum(dim=1))
    assert [*readable(samples.kinds)] == ["digit", "digit of the previous cell", "digit of the next cell", "sum so far"]
