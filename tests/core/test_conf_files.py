"""Files of a configuration directory as they are written."""

from pathlib import Path

import pytest

from patchwork.core.conf_files import (
    comments,
    extended_files,
    first_sentence,
    group_choices,
    header,
    package,
    read_choice,
)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "base.yaml").write_text(
        "# A model. With\n# two lines.\nwidth: 3 # its width\nname: 'a # b'\n"
    )
    (tmp_path / "model" / "wide.yaml").write_text(
        "# @package _global_\n# Wide.\ndefaults:\n  - base\n  - _self_\nwidth: 9\n"
    )
    return tmp_path


def test_files_are_read(conf: Path) -> None:
    base, wide = conf / "model" / "base.yaml", conf / "model" / "wide.yaml"
    assert group_choices([conf]) == {"model": ["base", "wide"]}
    assert extended_files(wide) == [wide, base]
    assert {**read_choice(wide), "defaults": None} == {"width": 9, "name": "a # b", "defaults": None}
    assert (header(base), header(wide)) == ("A model. With two lines.", "Wide.")
    assert first_sentence(header(base)) == "A model."
    assert (package(base), package(wide)) == ("model", "")
    assert comments(base) == {"width": "its width"}
