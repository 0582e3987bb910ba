"""What W&B's agents write on a command line is read as overrides."""

import pytest

from patchwork.core.agent_args import agent_args, translate_args
from patchwork.core.errors import ConfigError
from patchwork.core.overrides import parse_overrides


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an agent be the parent of this process."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")


def test_nested_dictionaries_become_an_override_for_each_key() -> None:
    args = [f"optimizer={ {'lr': 0.01, 'betas': [0.9, None], 'x': {'y': 'a b', 'z': None}} }"]
    assert parse_overrides(translate_args(args)) == {
        "optimizer.lr": 0.01,
        "optimizer.betas": [0.9, None],
        "optimizer.x.y": "a b",
        "optimizer.x.z": None,
    }


@pytest.mark.parametrize(
    "arg", ["a=1", "a=[1, 2]", "a={b:1}", "a=[x,y]", "a={}", "a=[", "--config-dir={'a': 1}", "-m", "a", "a={1: 2}"]
)
def test_other_arguments_are_left_as_they_are(arg: str) -> None:
    assert translate_args([arg]) == [arg]
    assert agent_args([arg]) == [arg]


@pytest.mark.usefixtures("agent")
def test_an_agent_may_write_hyphens_and_its_runs_are_logged() -> None:
    assert agent_args(["--optimizer.lr=1e-05", "--seed=1"]) == ["optimizer.lr=1e-05", "seed=1", "logger=wandb"]
    assert agent_args(["seed=1", "logger=csv"]) == ["seed=1", "logger=csv"]
    assert agent_args(["resume=run"]) == ["resume=run"]
    assert agent_args(["--config-dir=x", "seed=1"]) == ["--config-dir=x", "seed=1"]
    assert agent_args(["--help"]) == ["--help"]


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("args", [["--seed", "1"], ['{"seed": 1}']])
def test_other_forms_of_an_agent_are_refused_with_the_command_to_use(args: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"put into its file command: .*args_no_hyphens"):
        agent_args(args)
