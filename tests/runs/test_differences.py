"""The overrides of a configuration compose to it again."""

import pytest

from patchwork.runs.compose import compose
from patchwork.runs.differences import command_overrides, config_overrides, to_plain


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["task=classify", "model=cnn", "optimizer=adamw", "scheduler=constant", "optimizer.lr=0.01"],
        [
            "callbacks=none",
            "logger=none",
            "dataset=uci",
            "seed=4",
            "trainer.max_time='00:00:01:00'",
            "data.augment=null",
            "data.rows=3",
            "model.stem.layers=[{channels: 8, kernel: 5, stride: 4}]",
            "init_from='a b'",
        ],
    ],
    ids=str,
)
def test_overrides_compose_to_the_configuration(overrides: list[str]) -> None:
    config = to_plain(compose(overrides))
    found = config_overrides(config)
    assert to_plain(compose(found)) == config
    assert len(found) <= len(overrides)


def test_configuration_of_a_task_that_is_no_choice_has_none() -> None:
    assert config_overrides({**to_plain(compose([])), "task_name": "unknown"}) == []


def test_command_is_read_without_what_says_where_the_run_is() -> None:
    command = "patchwork train task=sum 'data.rows=[1, 2]' run_dir=x resume=auto hydra.run.dir=y +seed=1"
    assert command_overrides(command) == ["task=sum", "data.rows=[1, 2]", "+seed=1"]
    assert command_overrides("patchwork train 'x") == []
