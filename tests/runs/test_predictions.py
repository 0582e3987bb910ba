"""Tables of predictions: the same as the metrics count, saved once, and never those of other weights."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

from patchwork.core.errors import ConfigError, DataError
from patchwork.runs.build import build
from patchwork.runs.compose import compose
from patchwork.runs.predictions import (
    predict,
    predict_images,
    predictions_path,
    read_table,
    save_predictions,
    write_table,
)
from patchwork.runs.run import Run
from patchwork.tasks import Predictions, Task
from patchwork.training.checkpoint_io import weights_sha256

TINY_CLASSIFY = [
    "task=classify",
    "dataset=uci",
    "model.stem=null",
    "model.patch_size=14",
    "model.embed_dim=16",
    "data.test_size=20",
    "data.val_size=10",
    "data.eval_batch_size=8",
]


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Run:
    return Run.load(finished_run)


@pytest.fixture(scope="module")
def table(run: Run) -> Predictions:
    return predict(run.task, run.data, "test")


def assert_equal(one: Predictions, other: Predictions) -> None:
    assert one.tensors().keys() == other.tensors().keys()
    assert all(torch.equal(values, other.tensors()[name]) for name, values in one.tensors().items())


def randomize(task: Task) -> None:
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.3)


def test_training_saves_the_predictions_that_its_test_metrics_count(run: Run, table: Predictions) -> None:
    saved, digest = read_table(predictions_path(run.run_dir, "test"))
    assert_equal(saved, table)
    assert digest == run.manifest["weights_sha256"]
    accuracy = float(saved.correct.double().mean())
    assert accuracy == pytest.approx(run.manifest["metrics"]["test/sequence_accuracy"], abs=1e-6)


def test_rows_are_in_order_and_name_the_images_of_their_sample(run: Run, table: Predictions) -> None:
    assert table.index.tolist() == list(range(run.data.num_samples["test"]))
    assert torch.equal(run.data.source.test.labels[table.image_ids], table.target)


def test_predicting_restores_the_mode_of_the_task(run: Run) -> None:
    run.task.train()
    val = predict(run.task, run.data, "val", embeddings=True)
    assert run.task.training
    assert not run.task.with_embeddings
    run.task.eval()
    assert_equal(val, predict(run.task, run.data, "val"))  # in evaluation mode both times


def test_embeddings_are_returned_on_request() -> None:
    data, task = build(compose(TINY_CLASSIFY))
    assert predict(task, data, "val").embedding is None
    assert predict(task, data, "val", embeddings=True).embedding.shape == (10, 16)


def test_a_saved_table_is_read_and_one_of_other_weights_is_replaced(run_copy: Path) -> None:
    run = Run.load(run_copy)
    path = predictions_path(run_copy, "test")
    before = path.stat().st_mtime_ns
    run.predictions("test")
    assert path.stat().st_mtime_ns == before
    randomize(run.task)
    changed = run.predictions("test")
    assert_equal(changed, predict(run.task, run.data, "test"))
    saved, digest = read_table(path)
    assert_equal(saved, changed)
    assert digest == weights_sha256(run.task.state_dict())


def test_a_missing_table_is_made_and_saved(run_copy: Path, table: Predictions) -> None:
    path = predictions_path(run_copy, "test")
    path.unlink()
    assert_equal(Run.load(run_copy).predictions("test"), table)
    assert_equal(read_table(path)[0], table)


def test_predictions_on_another_data_set_are_refused(run_copy: Path) -> None:
    run = Run.load(run_copy)
    run.manifest["dataset_sha256"] = "0" * 64
    with pytest.raises(DataError, match="dataset_sha256 000000000000"):
        run.predictions("val")


@pytest.mark.parametrize("precision", [torch.float32, torch.float64, torch.bfloat16])
def test_a_table_survives_writing_and_reading(tmp_path: Path, table: Predictions, precision: torch.dtype) -> None:
    rounded = Predictions.from_tensors({**table.tensors(), "log_probs": table.log_probs.to(precision)})
    write_table(tmp_path / "table.npz", rounded, "abc")
    saved, digest = read_table(tmp_path / "table.npz")
    assert digest == "abc"
    assert torch.equal(saved.log_probs.to(precision), rounded.log_probs)
    assert saved.embedding is None


def archive(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


COLUMNS = {
    "index": np.arange(2),
    "image_ids": np.zeros((2, 1), np.int64),
    "prediction": np.arange(2),
    "weights_sha256": np.array("abc"),
}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an archive",
        archive(**COLUMNS)[:-30],
        archive(**COLUMNS).replace(b"\x01", b"\x02"),
        archive(**{name: values for name, values in COLUMNS.items() if name != "index"}),
        archive(**{name: values for name, values in COLUMNS.items() if name != "weights_sha256"}),
        archive(**{**COLUMNS, "prediction": np.arange(3)}),
        archive(**{**COLUMNS, "prediction": np.array([print, len], dtype=object)}),
        archive(**{**COLUMNS, "prediction": np.array(["a", "b"])}),
    ],
)
def test_a_damaged_table_is_an_error_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "test.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"test\.npz is damaged: [^\n]*delete it to predict again$"):
        read_table(path)


@pytest.mark.parametrize(("limit", "saved"), [(None, True), (1.0, True), (1, False), (0.5, False)])
def test_no_table_is_saved_of_a_part_of_the_split(tmp_path: Path, limit: float | None, saved: bool) -> None:
    data, task = build(compose(TINY_CLASSIFY))
    if limit is not None:
        data.trainer = type("Trainer", (), {"limit_test_batches": limit, "world_size": 1, "global_rank": 0})()
    save_predictions(task, data, tmp_path, "test")
    assert predictions_path(tmp_path, "test").exists() is saved


def test_no_table_is_saved_of_a_generator(tmp_path: Path) -> None:
    data, task = build(compose(["task=pixels", "model=pixel_transformer_tiny", "dataset=uci", "data.test_size=4"]))
    save_predictions(task, data, tmp_path, "test")
    assert not predictions_path(tmp_path, "test").exists()


def test_single_images_are_predicted_as_those_of_a_split(run: Run, table: Predictions) -> None:
    images = run.data.source.test.images[table.image_ids]  # (N, 4, 1, 28, 28), two rows of two
    grids = rearrange(images, "n (r c) 1 h w -> n (r h) (c w)", r=2)
    predictions = predict_images(run.task, run.data, grids.numpy())
    assert torch.equal(predictions.prediction, table.prediction)
    torch.testing.assert_close(predictions.log_probs, table.log_probs)
    assert predictions.target is None
    assert predictions.image_ids.eq(-1).all()
    one = predict_images(run.task, run.data, grids[0])
    assert torch.equal(one.prediction, table.prediction[:1])


def test_images_of_another_size_or_type_are_refused(run: Run) -> None:
    for image in (torch.zeros(28, 28, dtype=torch.uint8), torch.zeros(56, 56), torch.zeros(1, 3, 56, 56).byte()):
        with pytest.raises(ConfigError, match=r"takes \(1, 56, 56\) of uint8"):
            predict_images(run.task, run.data, image)


def test_tasks_of_image_sequences_do_not_predict_single_images() -> None:
    data, task = build(compose(["task=sum", "dataset=uci", "model.embed_dim=16"]))
    with pytest.raises(ConfigError, match="task=Sum does not predict single images"):
        predict_images(task, data, np.zeros((28, 28), np.uint8))
