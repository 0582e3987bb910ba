"""Tables of predictions: those that the metrics count, saved once, and never those of other weights."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from helpers import TINY

from patchwork.core.errors import DataError
from patchwork.data.sources.uci import read_digits
from patchwork.runs.build import build
from patchwork.runs.compose import compose
from patchwork.runs.predictions import (
    predict,
    predict_images,
    predictions_path,
    read_table,
    record_features,
    save_predictions,
    write_table,
)
from patchwork.runs.run import Run, run_test
from patchwork.tasks import Predictions, Task
from patchwork.training.checkpoint_io import weights_sha256
from patchwork.training.precision import make_precision
from patchwork.training.trainer import make_trainer

TINY_CLASSIFY = [
    "task=classify",
    "dataset=uci",
    "report=none",
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


TASKS = {  # all that save predictions, of small models
    "classify": ["model.embed_dim=16", "model.stem=null", "model.patch_size=7"],
    "seq2seq": ["model.embed_dim=16", "model.stem=null", "model.patch_size=14"],
    "sum": ["model.embed_dim=16", "data.test_lengths=[12]"],
    "anchor": ["model.embed_dim=16"],
    "icons": ["model.embed_dim=16", "model.stem=null", "model.patch_size=8"],
}
ACCURACY = {"seq2seq": "sequence_accuracy"}  # `accuracy` elsewhere


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
@pytest.mark.parametrize("name", TASKS)
def test_predictions_of_the_test_are_those_of_a_separate_pass(name: str, precision: str) -> None:
    size = [] if name == "icons" else ["dataset=uci", "data.test_size=40"]
    config = compose(
        [
            *(f"task={name}", *TASKS[name], *size, "data.eval_batch_size=16"),
            *(f"trainer.precision={precision}", "trainer.accelerator=cpu"),
        ]
    )
    data, task = build(config)
    randomize(task)
    batches: list[Predictions] = []
    metrics = run_test(make_trainer(config, []), task, data, batches)
    assert task.test_predictions is None
    table = Predictions.concat(batches)
    assert_equal(table, predict(task, data, "test", precision=make_precision(precision, task.device)))
    assert table.log_probs.dtype == (torch.float64 if precision == "64-true" else torch.float32)
    counted = table.correct[: data.num_samples["test"]]  # longer sequences follow
    assert float(counted.double().mean()) == pytest.approx(metrics[f"test/{ACCURACY.get(name, 'accuracy')}"], abs=1e-6)
    assert metrics == run_test(make_trainer(config, []), task, data)  # whether predictions are collected or not


def test_training_predicts_the_test_split_once(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchwork.runs.predictions.predict", None)
    assert command("train", *TINY, "run_dir=run") == 0
    assert len(read_table(predictions_path(tmp_path / "run", "test"))[0]) == 32


@pytest.mark.parametrize(
    ("precision", "name"),
    [
        ("bf16", "bf16-mixed"),
        pytest.param("32-true", "32-true", marks=pytest.mark.slow),
        pytest.param("64", "64-true", marks=pytest.mark.slow),
    ],
)
def test_tables_are_fresh_after_training_and_after_resuming(
    command: Callable[..., int], tmp_path: Path, precision: str, name: str
) -> None:
    """A fold of a cross-validation saves those of its validation part, too."""
    monitor = ("task.monitor=val/loss", "task.mode=min")  # accuracies stay 0
    fold = ("dataset.folds=3", "dataset.fold=1")
    assert command("train", *TINY, *monitor, *fold, f"trainer.precision={precision}", "run_dir=run") == 0
    path, digests = predictions_path(tmp_path / "run", "test"), []
    for epochs in (1, 3):
        if epochs > 1:
            manifest = tmp_path / "run/manifest.json"
            manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "status": "running"}))
            config = tmp_path / "run/config.yaml"
            config.write_text(config.read_text().replace("max_epochs: 1\n", f"max_epochs: {epochs}\n"))
            assert command("train", "resume=run") == 0
        run, written = Run.load(tmp_path / "run"), path.stat().st_mtime_ns
        assert run.config.trainer.precision == name
        saved = run.predictions("test")
        assert path.stat().st_mtime_ns == written
        assert read_table(predictions_path(run.run_dir, "val"))[1] == read_table(path)[1]
        assert read_table(path)[1] == run.manifest["weights_sha256"] == weights_sha256(run.task.state_dict())
        assert_equal(saved, predict(run.task, run.data, "test", precision=run.precision))
        assert run.evaluate() == {name: run.manifest["metrics"][name] for name in run.evaluate()}
        digests.append(run.manifest["weights_sha256"])
    assert digests[0] != digests[1]


def test_rows_are_in_order_and_name_the_images_of_their_sample(run: Run, table: Predictions) -> None:
    assert table.index.tolist() == list(range(run.data.num_samples["test"]))
    assert torch.equal(run.data.source.test.labels[table.image_ids], table.target)


def test_predicting_restores_the_mode_of_the_task(run: Run) -> None:
    run.task.train()
    val = predict(run.task, run.data, "val", embeddings=True)
    assert run.task.training
    run.task.eval()
    assert_equal(val, predict(run.task, run.data, "val"))  # in evaluation mode both times


@torch.no_grad()
def test_embeddings_are_returned_on_request() -> None:
    data, task = build(compose(TINY_CLASSIFY))
    randomize(task)
    assert predict(task, data, "val").embedding is None
    passes: list[int] = []
    task.model.patch_embed.register_forward_hook(lambda *_: passes.append(1))
    predictions = predict(task, data, "val", embeddings=True)
    assert len(passes) == data.num_batches("val")  # they come from the forward pass of the predictions
    assert predictions.embedding.shape == (10, 16)
    torch.testing.assert_close(task.model.head(predictions.embedding).log_softmax(dim=1), predictions.log_probs)


def test_features_are_recorded_until_the_end_and_only_of_models_that_have_them() -> None:
    model, image = build(compose(TINY_CLASSIFY))[1].model.eval(), torch.randn(2, 1, 28, 28)
    with record_features(model) as features:
        model(image)
    model(image)
    (recorded,) = features
    assert torch.equal(recorded, model.features(image))
    with record_features(torch.nn.Linear(2, 2)) as features:
        pass
    assert features == []


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


@pytest.mark.parametrize(
    "overrides",
    [
        ["task=classify", "dataset=uci", *TASKS["classify"]],
        ["task=classify", "dataset=uci", "data.image_size=14", *TASKS["classify"]],
        ["task=seq2seq", "dataset=uci", "data.rows=1", "data.cols=3", *TASKS["seq2seq"]],
        ["task=icons", *TASKS["icons"]],
    ],
)
def test_single_images_are_predicted_without_the_data_set(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, task = build(compose([*overrides, "data.eval_batch_size=8"]))
    randomize(task.eval())
    data.setup()
    batch = data.make_batch("test", (0, 0), slice(None))
    pixels = ((batch["image"] * data.source.std + data.source.mean) * 255).round().byte()
    with torch.no_grad():
        expected = task.predict_step(batch, 0)
    unread, _ = build(compose(overrides))
    monkeypatch.setattr(type(unread.dataset), "load", None)
    assert unread.image_shape == pixels.shape[1:]
    predictions = predict_images(task, unread, pixels)
    assert torch.equal(predictions.prediction, expected.prediction)
    torch.testing.assert_close(predictions.log_probs, expected.log_probs)


def test_a_table_is_read_and_images_are_predicted_without_the_data_set(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.load(finished_run)
    monkeypatch.setattr(type(run.data.dataset), "load", None)
    assert len(run.predictions("test")) == 32
    assert len(run.predict(np.zeros((3, 56, 56), np.uint8))) == 3
    assert not hasattr(run.data, "source")


def test_validation_predictions_of_all_folds_are_those_of_the_training_part(tmp_path: Path) -> None:
    tables = []
    for fold in range(3):
        overrides = [override for override in TINY_CLASSIFY if "val_size" not in override]
        config = compose([*overrides, "dataset.folds=3", f"dataset.fold={fold}"])
        data, task = build(config)
        run = Run(tmp_path / str(fold), config, {}, task.eval(), data)
        tables.append(run.predictions("val"))
        assert_equal(run.predictions("val"), tables[-1])  # as it was saved
    joined = Predictions.concat(tables)
    order = joined.image_ids.flatten().argsort()
    _, labels = read_digits()
    assert torch.equal(joined.image_ids[order].flatten(), torch.arange(1437))
    assert torch.equal(joined.target[order], torch.from_numpy(labels[:1437]).long())


@pytest.mark.parametrize(("task", "dataset"), [("classify", "fashion"), ("pixels", "fashion"), ("classify", "uci")])
def test_answers_name_the_classes_of_the_data_set_and_metrics_number_them(task: str, dataset: str) -> None:
    overrides = [f"task={task}", f"dataset={dataset}", *(["dataset.root=/nowhere"] if dataset == "fashion" else [])]
    _, built = build(compose(overrides))  # which reads no data
    names = {"fashion": ["trouser", "ankle boot"], "uci": ["1", "9"]}
    assert built.format_answers(torch.tensor([1, 9])) == names[dataset]
    if task == "classify":
        classes = built.test_metrics["class_accuracy"]
        classes.update(*[torch.arange(10)] * 3)
        assert list(classes.compute()) == [f"class_accuracy/{label}" for label in range(10)]
