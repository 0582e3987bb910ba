"""`key=value` strings: what is formatted is parsed back, and wrong ones are reported in one line."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Ge, MinLen
from hypothesis import example, given, settings
from hypothesis import strategies as st

from patchwork.core.errors import ConfigError
from patchwork.core.overrides import (
    format_override,
    override_key,
    parse_call,
    parse_overrides,
    parse_value,
    shell_command,
    shell_override,
)
from patchwork.core.types import PathStr

KEYS = st.from_regex(r"[a-z_]+(\.[a-z_]+){0,2}", fullmatch=True)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20)
)


def function(
    *,
    path: str,
    number: Annotated[int, Ge(1)] = 1,
    rate: float = 0.5,
    flag: bool = False,
    name: Annotated[str, MinLen(1)] | None = None,
    index: int | str | None = None,
    several: list[int] | str | None = None,
    names: list[str] | None = None,
) -> None:
    """Have keyword arguments of many types."""


@given(key=KEYS, value=SCALARS)
@settings(max_examples=50, deadline=None)
def test_override_parses_to_the_formatted_value(key: str, value: Any) -> None:
    override = format_override(key, value)
    (parsed,) = parse_overrides([override]).items()
    assert parsed == (key, value)
    assert type(parsed[1]) is type(value)
    assert override_key(override) == key


@pytest.mark.parametrize(
    "value", ["null", "True", "nan", "1", "1e5", "a b", "a,b", "it's", "\\", "ä", "", "${x}", "[1]"]
)
def test_override_quotes_strings_that_read_as_another_type(value: str) -> None:
    assert parse_overrides([format_override("x.y", value)]) == {"x.y": value}


@pytest.mark.parametrize("override", ["seed=1,2", "~logger", "=3", "x=[1", "seed", "x=range(1,3)"])
def test_override_must_set_one_value(override: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed") as error:
        parse_overrides([override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("override", "key"), [("a.b=1", "a.b"), ("+a=1", "a"), ("++a=b=c", "a")])
def test_override_key_is_without_prefix(override: str, key: str) -> None:
    assert override_key(override) == key


@given(text=st.text(max_size=20).filter(lambda text: text[:1] not in ("'", '"') or text[0] != text[-1]))
@settings(max_examples=50, deadline=None)
def test_call_takes_strings_as_they_are_written(text: str) -> None:
    assert parse_call(function, [f"path={text}"]) == {"path": text}


@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
@example("a (copy) =ü")
@example("runs/2026-01-31/lr=1e-3")
@example("null")
@example("'")
@settings(max_examples=60, deadline=None)
def test_what_is_printed_to_be_typed_comes_back(text: str) -> None:
    """Through the shell, Hydra and the other commands."""
    (override,) = shlex.split(shell_override("path", text))
    assert parse_call(function, [override]) == parse_overrides([override]) == {"path": text}
    assert parse_call(function, [format_override("path", text)]) == {"path": text}
    command = shell_command("evaluate", "--flag", "a b", path=text)
    assert shlex.split(command) == ["patchwork", "evaluate", "--flag", "a b", override]


def test_plain_path_is_printed_without_quotes() -> None:
    path = "outputs/seq2seq/vit/2026-01-31_12-00-00"
    assert shell_command("evaluate", run=path) == f"patchwork evaluate run={path}"


PATHS = PathStr | list[PathStr]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("~/a b", "{home}/a b"),
        ("'~/a=b'", "{home}/a=b"),
        ("a~", "a~"),
        ("[~/a,b]", ["{home}/a", "b"]),
        ("[a=1, 'b, (c)']", ["a=1", "b, (c)"]),
        ("[2026,2027]", ["2026", "2027"]),
        ("2026", "2026"),
        ("1e3", "1e3"),
        ("[a", "[a"),
        ("x, y", "x, y"),
    ],
)
def test_paths_are_what_a_shell_means_by_them(monkeypatch: pytest.MonkeyPatch, text: str, value: Any) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    expected = [item.format(home="/home/me") for item in value] if isinstance(value, list) else value
    expected = expected.format(home="/home/me") if isinstance(expected, str) else expected
    assert parse_value("run", text, PATHS) == expected


@given(words=st.lists(st.text(alphabet="aZ/ =~()#,.2ä'\"", min_size=1, max_size=6), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_list_of_paths_comes_back(words: list[str]) -> None:
    assert parse_value("run", format_override("run", words).removeprefix("run="), list[str]) == words


def test_directory_that_is_called_like_a_home_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    assert parse_value("run", "~", PathStr) == "~"


@given(number=st.integers(1, 10**9), rate=st.floats(-1e9, 1e9), flag=st.booleans())
@settings(max_examples=50, deadline=None)
def test_call_parses_numbers_and_booleans(number: int, rate: float, flag: bool) -> None:
    kwargs = parse_call(function, ["path=x", f"number={number}", f"rate={rate!r}", f"flag={str(flag).lower()}"])
    assert kwargs == {"path": "x", "number": number, "rate": rate, "flag": flag}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("name=null", None),
        ("name=1e5", "1e5"),
        ("name=2026-11-26", "2026-11-26"),
        ("name=true", "true"),
        ("name=~", "~"),
        ("name=[a", "[a"),
        ("name=${x}", "${x}"),
        ("index=3", 3),
        ("index=3.5", "3.5"),
        ("index=three", "three"),
        ("several=[1,2]", [1, 2]),
        ("several=a=b", "a=b"),
        ("rate=3", 3),
        ("name='a'", "a"),
        ("several=7", "7"),
        ("names=a,b", ["a", "b"]),
        ("names=[1,b]", ["1", "b"]),
        ("path=null", "null"),
    ],
)
def test_call_parses_yaml_where_its_type_is_allowed(override: str, value: Any) -> None:
    key = override_key(override)
    kwargs = parse_call(function, ["path=x", override])
    assert kwargs[key] == value
    assert type(kwargs[key]) is type(value)


def test_call_takes_the_last_value_of_a_key() -> None:
    assert parse_call(function, ["path=a", "path=b"]) == {"path": "b"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["path"], "'path' is not allowed: use key=value, with path, number, rate"),
        ([], "path is missing: give path=…"),
        (["path=x", "numbr=1"], r"numbr=1 is not a key of this command \(did you mean number=1\?\)"),
        (["path=x", "a.b=1"], r"a.b=1 is not a key of this command"),
        (["path=x", "number=0"], "number=0 is not allowed"),
        (["path=x", "number=1.5"], "number=1.5 is not allowed"),
        (["path=x", "number="], "number='' is not allowed"),
        (["path=x", "flag=1"], "flag=1 is not allowed"),
        (["path=x", "rate=nan"], "rate='nan' is not allowed"),
        (["path=x", "rate=.nan"], "rate=nan is not allowed"),
        (["path=x", "name="], "name='' is not allowed"),
        (["path=x", "number=[1"], "number='\\[1' is not allowed"),
    ],
)
def test_call_reports_errors_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_call(function, overrides)
    assert "\n" not in str(error.value)
