"""`patchwork icons`: the files it writes, and wrong arguments."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from patchwork.commands.icons import command, write_icons
from patchwork.data.rng import make_rng
from patchwork.data.sources.icons import PERSONS, TENSES, VERBS, all_labels, render


def test_written_icons_are_those_rendered(tmp_path: Path) -> None:
    write_icons(out=str(tmp_path / "icons"), samples_per_class=2, seed=3)
    entries = json.loads((tmp_path / "icons" / "labels.json").read_text())
    assert len(entries) == len({entry["filename"] for entry in entries}) == 600
    images = render(all_labels(2), difficulty=1.0, rng=make_rng("icons", 3))
    for index in (0, 1, 299, 599):
        entry = entries[index]
        assert entry["class_id"] == (entry["verb_id"] * 5 + entry["tense_id"]) * 3 + entry["person_id"]
        verb, tense, person = (
            list(names)[entry[f"{factor}_id"]]
            for names, factor in ((VERBS, "verb"), (TENSES, "tense"), (PERSONS, "person"))
        )
        assert entry["filename"] == f"verb_{verb}_tense_{tense}_person_{person}_{index % 2}.png"
        with Image.open(tmp_path / "icons" / "icons" / entry["filename"]) as file:
            pixels = torch.tensor(list(file.getdata()), dtype=torch.uint8).view(32, 32, 3)
        assert torch.equal(pixels.permute(2, 0, 1), images[index])
    manifest = json.loads((tmp_path / "icons" / "manifest.json").read_text())
    assert (manifest["icons"], manifest["seed"], manifest["samples_per_class"]) == (600, 3, 2)
    assert (tmp_path / "icons" / "sheet.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["icons"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "out is missing"),
        (["icons"], 2, "key=value"),
        (["out=a", "colour=1"], 2, "colour=1 is not a key of this command"),
        (["out=a", "difficulty=3"], 2, "difficulty=3 is not allowed"),
        (["out=a", "samples_per_class=x"], 2, "samples_per_class=x"),
        (["out=directory"], 2, "out=directory exists"),
        (["out=file/icons", "samples_per_class=1"], 5, "cannot be written"),
    ],
)
def test_wrong_arguments_are_reported_in_one_line_and_write_nothing(
    args: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    assert command(args) == code
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"directory", "file"}


def test_help_lists_the_arguments(capsys: pytest.CaptureFixture) -> None:
    assert command(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("out=…", "samples_per_class=5", "difficulty=1.0", "seed=0"))
