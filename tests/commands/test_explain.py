"""Every key of every configuration is explained: a sentence, what is allowed, the value and where it is set."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from helpers import choices

from patchwork.commands.app import keyword_commands
from patchwork.commands.explain import Configuration, explain, find_key
from patchwork.core.docstrings import argument_sentences
from patchwork.core.errors import ConfigError
from patchwork.core.schema import signature
from patchwork.core.suggest import key_paths
from patchwork.runs.fitting import fitting_data, fitting_models


def configurations() -> Iterator[list[str]]:
    """Yield overrides that together choose everything there is."""
    for task in choices("task"):
        models, data = fitting_models(task), fitting_data(task)
        for index in range(max(len(models), len(data))):
            yield [f"task={task}", f"model={models[index % len(models)]}", f"data={data[index % len(data)]}"]
    groups = ("dataset", "optimizer", "scheduler", "logger")
    for chosen in itertools.zip_longest(*(choices(group) for group in groups)):
        yield [f"{group}={choice}" for group, choice in zip(groups, chosen, strict=True) if choice]


@pytest.mark.parametrize("overrides", configurations(), ids=" ".join)
def test_every_key_is_explained(overrides: list[str]) -> None:
    configuration = Configuration.compose(overrides)
    groups = {"task", "model", "data", "dataset", "optimizer", "scheduler", "trainer", "logger", "callbacks"}
    for path in set(key_paths(configuration.values)) - groups:
        key = find_key(path, configuration)
        assert key is not None, path
        assert len(key.sentence.split()) > 1, path
        assert key.allowed, path
        assert key.value, path


def test_every_key_of_the_commands_has_a_sentence() -> None:
    functions = keyword_commands()
    assert {"evaluate", "generate", "predict", "sweep", "icons"} <= {*functions}
    for function in functions.values():
        assert {*signature(function)} <= {*argument_sentences(function)}


@pytest.mark.parametrize(
    ("args", "lines"),
    [
        (["optimizer.lr", "optimizer=sgd"], ["optimizer.lr", "  learning rate.", "  allowed: a positive number"]),
        (["data.batch_size", "task=icons"], ["  default: 32", "  set in:  conf/task/icons.yaml"]),
        (["data.batch_size", "data.batch_size=8"], ["  default: 8", "  set in:  data.batch_size=8"]),
        (["model.rows"], ["  default: 2, which follows from ${data.rows}"]),
        (["task.optimizer.lr"], ["optimizer.lr"]),
        (["model.stem.layers"], ["  set in:  conf/stem/conv3.yaml"]),
        (["seed"], ["  allowed: an integer from 0 to 4294967295", "  default: 0", "  set in:  conf/train.yaml"]),
        (["optimizer=adamw"], ["optimizer=adamw", "  conf/optimizer/adamw.yaml"]),
        (["task=sum"], ["  task.monitor=val/accuracy"]),
        (["generate.guidance"], ["patchwork generate guidance=…", "  default: 1.0"]),
        (["guidance"], ["patchwork evaluate guidance=…", "patchwork generate guidance=…"]),
        (["generate"], ["  patchwork generate key=value …"]),
        (["train"], ["  sum: fully_connected, sequence_regressor, sum_distribution"]),
        (["val/sequence_accuracy"], ["val/sequence_accuracy, of task=seq2seq"]),
        (["optimizer.lr=0.02"], ["optimizer.lr", "  default: 0.02", "  set in:  optimizer.lr=0.02"]),
        (["seed=3", "task=sum"], ["  default: 3", "task=sum"]),
        (
            ["model.stem"],
            [
                "  convolutional stem; null embeds the pixels of a patch linearly.",
                "  allowed: stem@model.stem=CHOICE, of conv3, linear; or model.stem=null",
                "  default: stem@model.stem=conv3",
            ],
        ),
        (["data.dataset", "dataset=uci"], ["  default: dataset=uci"]),
        (["optimizer.lr"], ["  set in:  conf/recipe/seq2seq_muon_cosine.yaml, of task=seq2seq"]),
        (["report"], ["report", "  allowed: one of short, none", "  patchwork report key=value …"]),
    ],
)
def test_explanations(capsys: pytest.CaptureFixture[str], args: list[str], lines: list[str]) -> None:
    explain(args)
    output = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line not in output] == [], output


@pytest.mark.parametrize("group", ["optimizer", "stem", "experiment"])
def test_groups_list_their_choices(capsys: pytest.CaptureFixture[str], group: str) -> None:
    explain([group])
    words = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert {*choices(group)} <= {*words}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["lr"], r"lr is not a key of the configuration \(did you mean optimizer\.lr\?\)"),
        (["data.val_size", "task=icons"], r"data\.val_size is not a key of data; its keys are .*samples_per_class"),
        (["model=vitt"], r"unknown choice model=vitt \(did you mean model=vit\?\)"),
        (["generate.n_trials"], "n_trials is not a key of patchwork generate; its keys are run, "),
        (["test/nonsense"], "test/nonsense is not a metric of task=seq2seq: it has .*cell_accuracy"),
        (["trainer.plugins"], r"^trainer\.plugins is not set here: use trainer\.precision=… and accelerator=…$"),
        (["optimzer=adam"], r"did you mean optimizer=adam\?"),
        (["seed", "dephts", "lrr", "dephts"], r"^dephts is not .* lrr is not a key of [^;]*$"),
        ([], r"patchwork explain optimizer\.lr.* one of the groups accelerator, augment, "),
    ],
)
def test_what_does_not_exist(args: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        explain(args)


def test_what_exists_is_explained_beside_what_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"^sed is not a key of the configuration \(did you mean seed\?\)$"):
        explain(["seed", "sed", "optimizer.lr"])
    assert [line for line in capsys.readouterr().out.splitlines() if line in ("seed", "optimizer.lr")] == [
        "seed",
        "optimizer.lr",
    ]


def test_key_that_does_not_exist_is_found_without_torch() -> None:
    program = (
        "import sys; from patchwork.commands.explain import command; "
        "assert command(['lr']) == 2; assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "did you mean optimizer.lr?" in result.stderr


def test_as_a_command(command: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert command("explain", "--help") == 0
    assert command("explain", "seed") == 0
    assert command("explain", "sed") == 2
    assert capfd.readouterr().err == "patchwork explain: sed is not a key of the configuration (did you mean seed?)\n"
