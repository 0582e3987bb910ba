"""What all figures share."""

import pkgutil
import sys
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

import patchwork.figures
from patchwork.core.errors import ResourceError
from patchwork.figures.style import DPI, save_figure, text_width


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(patchwork.figures.__path__)])
def test_importing_figures_does_not_import_matplotlib(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec(f"patchwork.figures.{name}")
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # importing it raises an ImportError
    spec.loader.exec_module(module_from_spec(spec))


def test_save_figure_creates_directories_and_leaves_one_png(tmp_path: Path) -> None:
    path = tmp_path / "figures" / "empty.png"
    save_figure(Figure(figsize=(2, 1)), path)
    assert imread(path).shape == (DPI, 2 * DPI, 4)
    assert list(path.parent.iterdir()) == [path]


def test_a_figure_that_fails_to_render_leaves_the_old_file(tmp_path: Path) -> None:
    class BrokenFigure:
        def savefig(self, file: Any, **_: Any) -> None:
            file.write(b"half")
            raise ValueError("cannot be rendered")

    path = tmp_path / "curves.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="cannot be rendered"):
        save_figure(BrokenFigure(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "curves.png"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(ResourceError, match="disk is full"):
        save_figure(Figure(figsize=(1, 1)), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_width_grows_with_text_and_size() -> None:
    assert 0 < text_width("a", 8) < text_width("ab", 8) < text_width("ab", 12)
    assert text_width("$x^$", 8) > text_width("$x^", 8)  # no math is parsed
