"""What a shell passes as one word is one value; Hydra's own forms keep their meaning."""

from typing import Any

import pytest
from hydra.core.override_parser.types import QuotedString
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from patchwork import compose
from patchwork.core.errors import ConfigError
from patchwork.core.overrides import format_override, parse_override, parse_overrides
from patchwork.core.schema import SCALAR_KEYS, TARGET_PACKAGES, find_target, fits, signature
from patchwork.core.shell_overrides import TEXT_KEYS, parse_typed

WORDS = st.text(alphabet="aZ/ =~()#.:%$+-2äß{}[]@'\"", min_size=1, max_size=12)


def typed(override: str, *, sweep: bool = False) -> str:
    (parsed,) = parse_typed([override], sweep=sweep)
    return parsed


def swept(override: str) -> list[Any]:
    """Return the values that an override lists with `-m`."""
    parsed = parse_override(typed(override, sweep=True))
    values = parsed.sweep_iterator() if parsed.is_sweep_override() else iter([parsed.value()])
    return [value.text if isinstance(value, QuotedString) else value for value in values]


@given(text=WORDS)
@example("runs/lr=0.1")
@example("r (copy)")
@example("~/x")
@example("a,b")
@example("2026")
@example("1e5")
@example("true")
@example("it's")
@example("c#1")
@example("[a]")
@example(" a ")
@example(' ""')
@example(" null")
@example("'a' ")
@example("a\nb")
@example("r(1)")
@settings(max_examples=60, deadline=None)
def test_path_is_the_word_that_the_shell_passed(text: str) -> None:
    in_quotes = text[0] == text[-1] and text[0] in "'\""
    assume(not in_quotes and "${" not in text)
    assert parse_overrides([typed(f"run_dir={text}")]) == {"run_dir": text}


@given(text=st.text(max_size=12))
@settings(max_examples=60, deadline=None)
def test_formatted_override_keeps_its_value(text: str) -> None:
    for key in ("run_dir", "logger.wandb.name"):
        override = format_override(key, text)
        assert parse_overrides([typed(override)]) == {key: text}
        assert swept(override) == [text]


@given(words=st.lists(st.text(alphabet="aZ/ =~#.2ä", min_size=1, max_size=6).map(str.strip).filter(bool), min_size=2))
@settings(max_examples=40, deadline=None)
def test_each_word_of_a_list_is_a_path_with_multirun(words: list[str]) -> None:
    assert swept(f"run_dir={','.join(words)}") == words


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a,'b,c'", ["a", "b,c"]),
        ("x (1,2),y", ["x (1,2)", "y"]),
        ("it's,b", ["it's", "b"]),
        ("choice(a,b)", ["a", "b"]),
    ],
)
def test_lists_of_values_keep_quotes_and_brackets(text: str, values: list[str]) -> None:
    assert swept(f"run_dir={text}") == values


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run_dir='a b'", "run_dir='a b'"),
        ("run_dir=${x}/a", "run_dir=${x}/a"),
        ("run_dir=a\\=b", "run_dir=a\\=b"),
        ("run_dir=null", "run_dir=null"),
        ("resume=None", "resume=null"),
        ("optimizer.lr=1e-3", "optimizer.lr=1e-3"),
        ("seed=0,1", "seed=0,1"),
        ("logger.wandb.group=2026", "logger.wandb.group='2026'"),
        ("logger.wandb.notes=a b, c", "logger.wandb.notes='a b, c'"),
        ("run_dir=choice(a,b)", "run_dir='choice(a,b)'"),
        ("seed=choice(0,1)", "seed=choice(0,1)"),
        ("logger.wandb.name=my run (1)", "logger.wandb.name='my run (1)'"),
        ("data.rows=[1", "data.rows=[1"),
        ("hydra.mode=multirun", "hydra.mode=MULTIRUN"),
        ("~logger", "logger=none"),
        ("~callbacks=default", "callbacks=none"),
        ("~data.augment", "~data.augment"),
        ("~data.augment=", "~data.augment"),
        ("+seed=1", "++seed=1"),
        ("+trainer.max_epochs=1", "++trainer.max_epochs=1"),
        ("+logger=csv", "logger=csv"),
        ("++experiment=quickstart", "experiment=quickstart"),
        ("+group_of_mine=x", "+group_of_mine=x"),
        ("+hydra.job.env_set.A=1", "+hydra.job.env_set.A=1"),
    ],
)
def test_override_as_hydra_parses_it(override: str, expected: str) -> None:
    assert typed(override) == expected


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("~scheduler", "set it with scheduler=…"),
        ("~seed", "set it with seed=…"),
        ("~checkpoint_every_seconds", "set it with checkpoint_every_seconds=…"),
        ("~run_dir", "set it with run_dir=…"),
        ("logger=[csv,wandb]", "as logger=wandb"),
        ("callbacks=[default]", "as callbacks=default"),
        ("logger=[]", "as logger=none"),
        ("callbacks={}", "as callbacks=none"),
    ],
)
def test_override_that_no_run_can_have(override: str, fragment: str) -> None:
    with pytest.raises(ConfigError, match=fragment) as error:
        parse_typed([override], sweep=False)
    assert str(error.value).startswith(f"{override} is not allowed")


def test_hydra_keys_do_not_list_values() -> None:
    assert "hydra.sweep.dir" in TEXT_KEYS
    assert swept("hydra.sweep.dir=a,b") == ["a,b"]


def test_keys_that_are_strings_are_complete() -> None:
    """They are listed, as their annotations take an import of torch."""
    config = compose(["logger=wandb", "dataset=mnist"])
    nodes = {"dataset": config.dataset, "trainer": config.trainer, "task": config.task, "data": config.data}
    nodes |= {f"logger.{name}": node for name, node in config.logger.items()}
    strings = {key for key, annotation in SCALAR_KEYS.items() if is_string(annotation)}
    for path, node in nodes.items():
        parameters = signature(find_target(path, node._target_, TARGET_PACKAGES[path.partition(".")[0]]))
        strings |= {f"{path}.{name}" for name, (annotation, _) in parameters.items() if is_string(annotation)}
    assert {key for key in TEXT_KEYS if not key.startswith("hydra.")} == {*strings, "data.dataset.root"}


def is_string(annotation: Any) -> bool:
    """Return whether an annotation allows every string, and no number."""
    return fits("any words", annotation) and not fits(1, annotation) and not fits({"minutes": 1}, annotation)
