"""`init_from`: a new run begins with the weights of another one, wherever names and shapes fit, and then is its own."""

import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import TINY, read_manifest

import patchwork
from patchwork.core.errors import DataError, PatchworkWarning
from patchwork.runs.build import build
from patchwork.runs.compose import compose
from patchwork.runs.init_from import describe_taken, load_initial_weights, take_weights
from patchwork.tasks import Task
from patchwork.training.checkpoint_io import BEST, LAST, read_checkpoint, weights_sha256, write_checkpoint
from patchwork.training.checkpointing import Checkpointer

SMALL = ["dataset=uci", "model.embed_dim=16"]
EXTRA = ["model.dropout=0.1", "trainer.max_epochs=2", "checkpoint_every_seconds=0", "seed=1"]


def weights(run_dir: Path, name: str) -> dict[str, torch.Tensor]:
    return read_checkpoint(run_dir / "checkpoints" / name)["state_dict"]


@cache
def make_task(*overrides: str) -> Task:
    """Return a task, which tests share: they load weights before they compare any."""
    return build(compose([*SMALL, *overrides]))[1]


def train(run_dir: Path, *overrides: str, resume: str | None = None) -> dict[str, Any]:
    """Train, or resume, a run and return its manifest."""
    patchwork.train(compose([f"resume={resume}"] if resume else [*TINY, f"run_dir={run_dir}", *overrides]))
    return read_manifest(run_dir)


@pytest.fixture
def source(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a run, relative to the working directory, whose best and last weights differ."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run, "source")
    last = Path("source/checkpoints") / LAST
    state = read_checkpoint(last)
    doubled = {name: weight * 2 for name, weight in state["state_dict"].items()}
    write_checkpoint({**state, "state_dict": doubled}, last)
    return Path("source")


@pytest.mark.parametrize(
    ("path", "name"),
    [("source", BEST), ("source/", BEST), ("source/checkpoints", BEST), (f"source/checkpoints/{LAST}", LAST)],
)
def test_weights_are_the_best_of_a_run_or_exactly_those_of_a_checkpoint(source: Path, path: str, name: str) -> None:
    task = make_task(*TINY)
    initial = load_initial_weights(task, path, None)
    assert initial is not None
    expected = weights(source, name)
    assert all(torch.equal(task.state_dict()[key], weight) for key, weight in expected.items())
    entry = initial["init_from"]
    assert entry["weights_sha256"] == weights_sha256(expected)
    assert entry["tensors_taken"] == entry["tensors"] == len(expected)
    assert entry["not_taken"] == {}


def test_run_says_what_it_began_with(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = train(Path("run"), f"init_from={source}", "data.cols=3", "seed=7")
    entry = manifest["init_from"]
    assert entry["path"] == str(tmp_path / "source/checkpoints" / BEST)
    assert {*entry["not_taken"]} == {"pos_embed.weight", "token_pos_embed.weight"}
    assert (entry["tensors"] - entry["tensors_taken"], entry["parameters"]) == (2, manifest["parameters"])
    assert yaml.safe_load(Path("run/config.yaml").read_text())["init_from"] == str(tmp_path / source)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("init_from: ")]
    assert line == describe_taken(entry)
    assert f"took {entry['tensors_taken']} of {entry['tensors']} tensors (" in line
    assert "not taken: pos_embed.weight (24×16, 16×16 there), token_pos_embed.weight (7×16, 5×16 there)" in line
    initial = weights(Path("run"), "init.ckpt")
    assert torch.equal(initial["model.head.weight"], weights(source, BEST)["model.head.weight"])
    assert weights(Path("run"), LAST)["model.head.weight"].ne(initial["model.head.weight"]).any()


@pytest.fixture(scope="module")
def whole(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run that began with the weights of another one and was never interrupted."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    train(run_dir, *EXTRA, f"init_from={finished_run}")
    return run_dir


@pytest.mark.parametrize("step", [0, 3], ids=["before any checkpoint", "in an epoch"])
def test_killed_run_resumes_exactly_without_the_other_one(
    whole: Path, source: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    shutil.rmtree(source)
    shutil.copytree(finished_run, source)

    def kill(self: Checkpointer, trainer: Any, *_: Any) -> None:
        if trainer.global_step == step:
            raise KeyError("killed")

    with monkeypatch.context() as patches:
        patches.setattr(Checkpointer, "on_train_batch_start", kill)
        with pytest.raises(KeyError):
            train(Path("killed"), *EXTRA, f"init_from={source}")
    assert Path("killed/checkpoints", LAST).exists() is (step > 0)
    shutil.rmtree(source)
    killed, expected = train(Path("killed"), resume="killed"), read_manifest(whole)
    for key in ("weights_sha256", "metrics", "steps"):
        assert killed[key] == expected[key]
    assert Path("killed/metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_double_precision_takes_single_precision_weights(source: Path) -> None:
    task = deepcopy(make_task(*TINY)).double()
    load_initial_weights(task, str(source), None)
    head = task.state_dict()["model.head.weight"]
    assert head.dtype == torch.float64
    assert torch.equal(head.float(), weights(source, BEST)["model.head.weight"])


@pytest.mark.parametrize(
    ("source_overrides", "overrides", "shared"),
    [
        (["task=sum", "model.stem=null"], ["task=anchor", "model.stem=null"], ["image_encoder.encoder.0"]),
        (["task=classify"], ["task=seq2seq"], ["patch_embed.stem.0", "blocks.0.attn.query=encoder.0.attn.query"]),
        (["task=seq2seq"], ["task=classify"], ["patch_embed.stem.0", "encoder_norm=norm"]),
        (["task=classify"], ["task=sum"], ["patch_embed.stem.4=image_encoder.encoder.0.stem.4", "head"]),
        (["task=anchor"], ["task=classify"], ["image_encoder.encoder.0.stem.0=patch_embed.stem.0"]),
        (["task=anchor"], ["task=sum"], ["image_encoder.encoder.0.proj"]),
    ],
)
def test_networks_of_other_tasks_share_their_common_parts(
    source_overrides: list[str], overrides: list[str], shared: list[str]
) -> None:
    other, task = make_task(*source_overrides), make_task(*overrides)
    before = {name: weight.clone() for name, weight in other.state_dict().items()}
    entry = take_weights(task, before, Path("x.ckpt"))
    assert 0 < entry["tensors_taken"] < entry["tensors"]
    for names in shared:
        theirs, _, ours = names.partition("=")
        name = f"model.{ours or theirs}.weight"
        assert torch.equal(task.state_dict()[name], before[f"model.{theirs}.weight"])
        assert name.removeprefix("model.") not in entry["not_taken"]


def test_nothing_is_written_if_no_tensor_fits(source: Path) -> None:
    write_checkpoint({"state_dict": {"model.head.weight": torch.zeros(2, 2)}}, Path("other.ckpt"))
    with pytest.raises(DataError, match=r"init_from=.* fits no tensor of this model: .*, and \d+ more") as error:
        train(Path("run"), "init_from=other.ckpt")
    assert "\n" not in str(error.value)
    assert not Path("run").exists()


@pytest.mark.filterwarnings("error")
def test_few_parameters_that_fit_are_a_warning(source: Path) -> None:
    load_initial_weights(make_task(*TINY, "data.cols=3"), str(source), None)  # most fit
    head = weights(source, BEST)["model.head.weight"]
    write_checkpoint({"state_dict": {"model.head.weight": head}}, Path("head.ckpt"))
    task = make_task(*TINY)
    expected = rf"gives this model only {head.numel()} of its [\d,]+ parameters, so that it begins almost anew"
    with pytest.warns(PatchworkWarning, match=expected):
        load_initial_weights(task, "head.ckpt", None)


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"0")


@pytest.mark.parametrize(
    ("prepare", "init_from", "message"),
    [
        (lambda: None, "nowhere", r"init_from=.*nowhere does not exist"),
        (lambda: Path("empty").mkdir(), "empty", r"init_from=.*empty holds no checkpoint"),
        (
            lambda: Path("notes.txt").write_text("no"),
            "notes.txt",
            r"notes.txt is a \.txt file, and no checkpoint: pass",
        ),
        (lambda: torch.save({"state_dict": {}}, "x.pt"), "x.pt", r"is a \.pt file, and no checkpoint: pass a run dir"),
        (
            lambda: None,
            "source/metrics.csv",
            r"is a file of a run, and no checkpoint: pass source for its best weights",
        ),
        (lambda: torch.save({"state_dict": {}}, "x.ckpt"), "x.ckpt", "damaged or foreign"),
        (lambda: write_checkpoint({"epoch": 1}, Path("x.ckpt")), "x.ckpt", "no state_dict"),
        (lambda: write_checkpoint({"state_dict": {"a": 1}}, Path("x.ckpt")), "x.ckpt", "no state_dict"),
        (lambda: damage(Path("source/checkpoints") / BEST), "source", "SHA-256"),
    ],
    ids=["missing", "empty", "text", "other suffix", "file of a run", "foreign", "no weights", "no tensors", "damaged"],
)
def test_wrong_sources_are_refused_in_one_line(
    source: Path, prepare: Callable[[], object], init_from: str, message: str
) -> None:
    prepare()
    with pytest.raises(DataError, match=message) as error:
        load_initial_weights(make_task(*TINY), init_from, None)
    assert "\n" not in str(error.value)
