"""Fine-tuned weights are kept if corrections that were held out are read better, and mislabeled ones do not pass."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from correction_helpers import make_correction
from helpers import TINY, run_command
from torch.nn import functional as F

from patchwork.data.corrections import append_correction
from patchwork.data.sources import UCI
from patchwork.data.sources.mnist import MNIST
from patchwork.runs.gate import improvement_p_value
from patchwork.runs.manifest import read_manifest
from patchwork.runs.run import Run

SMALL = [
    "task=classify",
    "dataset.verify=false",
    "dataset.validation=200",
    *(override for override in TINY if not override.startswith(("dataset=", "data.samples", "data.val", "data.batch"))),
    "data.val_size=200",
    "data.batch_size=32",
    "optimizer=adamw",
    "optimizer.lr=3e-3",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the 8×8 digits of scikit-learn as if they were MNIST, and a classifier of them."""
    directory = tmp_path_factory.mktemp("gate")
    source = UCI(validation=200).load()
    for key, split in (("train", source.train), ("t10k", source.test)):
        images = F.interpolate(split.images.float(), (28, 28)).byte().numpy()
        for name, values in {"images-idx3": images[:, 0], "labels-idx1": split.labels.numpy()}.items():
            header = bytes([0, 0, 8, values.ndim]) + b"".join(axis.to_bytes(4, "big") for axis in values.shape)
            path = directory / "mnist" / f"{key}-{name}-ubyte.gz"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes(), 1))
    train = ["dataset=mnist", "dataset.root=mnist", "data.samples_per_epoch=6400", "run_dir=classifier"]
    assert run_command("train", *SMALL, *train, cwd=directory) == 0
    return directory


def correct(directory: Path, *, mislabeled: bool) -> str:
    """Write 200 corrections of mirrored digits, in four sessions, and return the name of their file."""
    path = directory / f"{'wrong' if mislabeled else 'right'}.jsonl"
    source = MNIST(root=str(directory / "mnist"), verify=False, validation=200).load()
    rng = np.random.default_rng(0)
    for number in range(200):
        label = int(rng.integers(0, 10)) if mislabeled else int(source.train.labels[number])
        pixels = source.train.images[number, 0].flip(0, 1).numpy()
        append_correction(path, make_correction(number, session=f"s{number % 4}", label=label, pixels=pixels))
    return path.name


def finetune(world: Path, corrections: str, run_dir: str) -> dict[str, object]:
    tune = ["dataset=corrections", f"dataset.path={corrections}", "dataset.root=mnist", "init_from=classifier"]
    size = ["data.samples_per_epoch=6400", f"run_dir={run_dir}"]
    assert run_command("train", *SMALL, *tune, *size, cwd=world) == 0
    return read_manifest(world / run_dir)["gate"]


def test_weights_that_read_corrections_better_are_kept(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = finetune(world, correct(world, mislabeled=False), "better")
    assert verdict["passed"]
    assert verdict["held_out"] >= 60
    assert verdict["held_out_accuracy"] > verdict["held_out_accuracy_before"]
    assert "the new weights are kept" in capsys.readouterr().out
    old, new = (Run.load(world / name).task.state_dict() for name in ("classifier", "better"))
    assert any(not torch.equal(old[name], new[name]) for name in old)


def test_mislabeled_corrections_leave_the_old_weights(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = finetune(world, correct(world, mislabeled=True), "wrong")
    assert not verdict["passed"]
    assert "the weights of " in capsys.readouterr().out
    old, new = (Run.load(world / name) for name in ("classifier", "wrong"))
    torch.testing.assert_close(dict(new.task.state_dict()), dict(old.task.state_dict()), rtol=0, atol=0)
    assert new.manifest["metrics"]["test/accuracy"] == old.manifest["metrics"]["test/accuracy"]


@pytest.mark.parametrize(("better", "worse", "p"), [(0, 0, 1.0), (5, 0, 1 / 32), (4, 0, 1 / 16), (5, 5, 0.623)])
def test_p_value_is_the_exact_one(better: int, worse: int, p: float) -> None:
    assert improvement_p_value(better, worse) == pytest.approx(p, abs=1e-3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=classify", "dataset=corrections"], "init_from=null is not allowed"),
        (["task=sum", "dataset=corrections", "init_from=x"], "dataset=corrections is for"),
        (
            ["task=classify", "dataset=corrections", "init_from=x", "accelerator=ddp"],
            "is trained by one process, not 2",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused(
    world: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    assert run_command("train", *overrides, "run_dir=refused", cwd=world) == 2
    assert message in capsys.readouterr().err
    assert not (world / "refused").exists()
