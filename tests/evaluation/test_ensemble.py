"""Ensembles of runs: from tables of predictions or from the models, with the same metrics."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchwork.core.errors import ConfigError
from patchwork.evaluation.ensemble import StoredOutputs, check_comparable, combine, set_model
from patchwork.runs.build import build
from patchwork.runs.compose import compose
from patchwork.runs.run import Run
from patchwork.training.precision import make_precision

SMALL = ["dataset=uci", "data.eval_batch_size=16", "trainer.accelerator=cpu"]


def untrained_run(overrides: str, seed: int, run_dir: Path) -> Run:
    """Return a run with random weights, as models start with a uniform prediction."""
    size = [] if "task=icons" in overrides else ["data.test_size=24"]  # icons have a test split of their own size
    config = compose([*SMALL, *size, *overrides.split(), f"seed={seed}"])
    data, task = build(config)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.3)
    make_precision(config.trainer.precision, task.device).convert_module(task)
    return Run(run_dir / str(seed), config, {}, task.eval(), data)


@pytest.mark.parametrize(
    ("overrides", "from_tables"),
    [
        ("task=classify model.embed_dim=16 model.stem=null model.patch_size=7", True),
        ("task=icons model.embed_dim=16 model.stem=null model.patch_size=8", True),
        ("task=icons task.label=tense_person task.head=flat model=cnn", True),
        ("task=sum model.embed_dim=16 data.test_lengths=[12]", True),
        ("task=sum model=sequence_regressor model.embed_dim=16", False),
        ("task=anchor model=fully_connected model.embed_dim=16", True),
        ("task=anchor model.embed_dim=16", False),
        ("task=seq2seq model.embed_dim=16 model.stem=null model.patch_size=14", False),
    ],
)
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_ensemble_metrics_from_tables_are_those_of_the_models(
    overrides: str, from_tables: bool, precision: str, tmp_path: Path
) -> None:
    sizes = (16, 16) if precision == "32-true" else (24, 7)  # of batches, which members need not share
    runs = [
        untrained_run(f"{overrides} trainer.precision={precision} data.eval_batch_size={size}", seed, tmp_path)
        for seed, size in enumerate(sizes)
    ]
    alone = runs[0].evaluate()
    with_itself = combine([runs[0], runs[0]])
    pair = combine(runs)
    models = runs[0].task.make_ensemble([run.model for run in runs])
    assert isinstance(pair, StoredOutputs) is from_tables
    metrics = []
    for model in (with_itself, pair, models):
        set_model(runs[0].task, model)
        metrics.append(runs[0].evaluate())
    tolerance = 2e-5 if precision == "32-true" else 2e-6
    assert metrics[0] == pytest.approx(alone, abs=tolerance)
    assert metrics[1] == pytest.approx(metrics[2], abs=tolerance)
    assert metrics[1] != pytest.approx(alone, abs=2e-5)


@given(order=st.permutations(range(6)), batch=st.lists(st.integers(0, 5), min_size=1))
@settings(deadline=None, max_examples=30)
def test_stored_outputs_are_looked_up_by_index(order: list[int], batch: list[int]) -> None:
    outputs = torch.arange(12.0).view(6, 2)
    model = StoredOutputs(torch.tensor(order), outputs[order])
    assert torch.equal(model(torch.tensor(batch)), outputs[batch])
    assert torch.equal(model(torch.tensor(batch)), outputs[batch])  # whatever was asked before


@pytest.mark.parametrize(
    "models", [("sum_distribution", "sequence_regressor"), ("sequence_regressor", "fully_connected")]
)
def test_models_with_other_outputs_cannot_be_combined(models: tuple[str, str], tmp_path: Path) -> None:
    kinds = {"sum_distribution": True, "sequence_regressor": False, "fully_connected": False}
    first, other = (
        untrained_run(f"task=sum model={model} model.embed_dim=16 data.test_lengths=[]", seed, tmp_path)
        for seed, model in enumerate(models)
    )
    check_comparable(first, other)
    if kinds[models[0]] == kinds[models[1]]:
        combine([first, other])
        return
    with pytest.raises(
        ConfigError, match=r"^run=\S+/1 has model outputs of shape \(\) per sample, and \S+/0 of \(91,\)"
    ):
        combine([first, other])


def test_evaluate_command_prints_the_ensemble_beside_its_members(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], finished_run: Path
) -> None:
    assert command("evaluate", f"run=[{finished_run},{finished_run}]") == 0
    *metrics, sentence = capsys.readouterr().out.splitlines()
    assert "of 32 test grids are read without an error" in sentence
    lines = [line.split() for line in metrics]
    saved = {name: value for name, value in Run.load(finished_run).manifest["metrics"].items() if "test/" in name}
    assert {line[0]: float(line[1]) for line in lines} == pytest.approx(saved, abs=2e-5)
    assert {line[0]: float(line[3]) for line in lines} == pytest.approx(saved, abs=2e-6)  # members 0.1 ± 0.0


def test_a_member_that_was_stopped_before_its_test_is_measured(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], finished_run: Path, run_copy: Path
) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    stopped = {**manifest, "status": "Interrupted: stopped by SIGTERM", "metrics": {}}
    (run_copy / "manifest.json").write_text(json.dumps(stopped))
    assert command("evaluate", f"run=[{finished_run},{run_copy}]") == 0
    output = capsys.readouterr()
    assert all(" ± 0.000000" in line for line in output.out.splitlines()[:-1])
    (warning,) = (line for line in output.err.splitlines() if line.startswith("warning:"))
    assert f"run={run_copy} is not finished: it stopped at step 2 of 2; patchwork train resume={run_copy} " in warning


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("task=seq2seq data.test_size=16", r"run=\S+/1 has other test samples than \S+/0"),
        ("task=seq2seq data.cols=3", r"run=\S+/1 has other test samples than \S+/0"),
        ("task=classify", r"run=\S+/1 is of another task than \S+/0"),
    ],
)
def test_runs_of_another_task_or_other_samples_cannot_be_combined(overrides: str, message: str, tmp_path: Path) -> None:
    first, other = untrained_run("task=seq2seq", 0, tmp_path), untrained_run(overrides, 1, tmp_path)
    check_comparable(first, first)
    with pytest.raises(ConfigError, match=message):
        check_comparable(first, other)


def test_generators_have_no_probabilities_to_average(tmp_path: Path) -> None:
    run = untrained_run("task=pixels model=pixel_transformer_tiny", 0, tmp_path)
    with pytest.raises(ConfigError, match="task=pixels evaluates one run at a time"):
        combine([run, run])


def test_wrong_arguments_of_an_ensemble_are_refused_in_one_line(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], finished_run: Path
) -> None:
    for args, message in (
        ([f"run=[{finished_run},{finished_run}]", "classifier=other"], "classifier=other"),
        ([f"run=[{finished_run},{finished_run}]", "guidance=2"], "guidance=2"),
        (["run=[]"], "run=[] is not allowed"),
        (["run=[[1]]"], "=[1] is not allowed"),
    ):
        assert command("evaluate", *args) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not Path("outputs").exists()
