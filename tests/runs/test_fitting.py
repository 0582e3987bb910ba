"""What fits together is read from the sources, and is what the classes themselves say."""

import pytest
from helpers import choices, pairs

from patchwork.core.errors import ConfigError, PatchworkWarning
from patchwork.runs.compose import compose
from patchwork.runs.fitting import check_fit, fitting_data, fitting_models, fitting_tasks, warn_unused


def test_models_that_fit_are_those_that_the_tasks_accept() -> None:
    assert {pair: pair[1] in fitting_models(pair[0]) for pair in pairs()} == pairs()


def test_every_task_fits_its_own_model_and_data() -> None:
    for task in choices("task"):
        check_fit(compose([f"task={task}"]))
        assert fitting_data(task)
    assert fitting_tasks("vit") == ["classify", "icons"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=sum", "model=vit"], "model=vit does not fit task=sum: models that fit task=sum are fully_connected, "),
        (
            ["task=classify", "model=cell_pool"],
            r"task=classify are cnn, vit; tasks that model=cell_pool fits: seq2seq$",
        ),
        (["task=anchor", "data=sequences"], "lack anchor, match, present; data that fit task=anchor: anchor$"),
        (["data=sequences"], r"model=encoder_decoder refers to data\.rows, data\.cols"),
    ],
)
def test_mismatch_names_both_and_what_fits(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_fit(compose(overrides))


def test_overrides_of_a_data_set_that_is_not_read() -> None:
    config = compose(["task=icons"])
    with pytest.warns(PatchworkWarning, match=r"^dataset=uci, dataset\.fold=1: no effect, as data=icons reads no data"):
        warn_unused(config, ["task=icons", "dataset=uci", "dataset.fold=1"])
    warn_unused(compose([]), ["dataset=uci"])
    warn_unused(config, ["seed=1"])
