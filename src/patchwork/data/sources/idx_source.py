"""Find, download and load a data set in the format of MNIST."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Interval

from patchwork.core.errors import DataError
from patchwork.core.paths import expand_home
from patchwork.data.sources.base import ImageSource, PartitionedSource
from patchwork.data.sources.download import download
from patchwork.data.sources.forms import conversion_hint
from patchwork.data.sources.idx import IdxDataset, NotFoundError
from patchwork.data.sources.locate import MAX_DEPTH, holds_some, matching_directory, missing_files, read_arrays


def search_roots() -> list[Path]:
    """Return the working directory and, last, the checkout that contains this package, if it is in one."""
    checkout = Path(__file__).resolve().parents[4]
    return list(dict.fromkeys([Path.cwd(), *([checkout] if (checkout / "pyproject.toml").is_file() else [])]))


@dataclass(kw_only=True, eq=False)
class IdxSource(PartitionedSource):
    """A data set of 60,000 training and 10,000 test images of 28×28, found on this machine or downloaded.

    It is looked for in this order:

    1. `root`, then the environment variable: the first that is set must hold the data set, or have it some levels down,
       as in torchvision's `MNIST/raw`.
    2. `data/<name>`, then `../shared/data/<name>`, relative to the working directory and to the checkout.
    3. Where a system package installs it, if there is one.
    4. Anywhere below `data`, and up to two levels below the working directory and the checkout.
    5. The mirrors; a download is written to `data/<name>`.

    Args:
        root: directory to read; no other is searched.
        download: download the data set if it is not found.
        verify: accept only the data set itself, by the MD5 of its files; false for other images in its format, whose
            source is then named `unverified-<name>`.
        validation: images of the training part that are for validation, if `folds` is null.

    Raises:
        ConfigError: if `folds` and `fold` do not fit together.
    """

    dataset: ClassVar[IdxDataset]
    mean: ClassVar[float]
    std: ClassVar[float]
    class_names: ClassVar[tuple[str, ...]]

    root: str | None = None
    download: bool = True
    verify: bool = True
    validation: Annotated[int, Interval(ge=1, le=59_999)] = 5000

    def load(self) -> ImageSource:
        """Find, check and split the data set.

        Raises:
            NotFoundError: if it is not on this machine and cannot be downloaded.
            DataError: if it is damaged, or not in the directory that was named.
            ResourceError: if the download cannot be written.
            ConfigError: if `validation` leaves nothing to train on.
        """
        arrays = read_arrays(self.dataset, self.find(), verify=self.verify)
        name = self.dataset.name if self.verify else f"unverified-{self.dataset.name}"
        return self.split(name, arrays, mean=self.mean, std=self.std)

    def find(self) -> Path:
        """Return the first directory that holds the data set, downloading it if needed; contents are not checked.

        Raises:
            NotFoundError: if there is none and no mirror has it.
            DataError: if a directory that was named does not hold it, or one holds a part of it.
            ResourceError: if the download cannot be written.
        """
        named = self.named_directory()
        if named is not None:
            return named
        directories = self.search_path()
        for directory in directories:
            if not missing_files(self.dataset, directory):
                return directory
        for directory, max_depth in self.wider_search_path():
            if (matching := matching_directory(self.dataset, directory, max_depth)) is not None:
                return matching
        try:
            if not self.download:
                raise NotFoundError("dataset.download is false")
            return download(self.dataset, search_roots()[-1] / "data" / self.dataset.name)
        except NotFoundError as reason:
            raise self.explain_absence(directories, reason) from reason

    def explain_absence(self, directories: list[Path], reason: NotFoundError) -> DataError:
        """Return the error of a data set that is in none of the directories and was not downloaded for a reason."""
        for directory in directories:
            if holds_some(self.dataset, directory):  # an incomplete data set is damaged, not absent
                missing = ", ".join(missing_files(self.dataset, directory))
                return DataError(f"{directory} lacks {missing} ({reason}); {self.dataset.remedy}")
        own = [root / "data" / self.dataset.name for root in search_roots()]
        searched = ", ".join(str(path) for path in directories if path in own or path.is_dir())
        hints = (conversion_hint(self.dataset.name, path) for path in [*own, *(path.parent for path in own)])
        hint = next(filter(None, hints), self.dataset.remedy)
        return NotFoundError(f"{self.dataset.title} is not in {searched}, and was not downloaded ({reason}); {hint}")

    def named_directory(self) -> Path | None:
        """Return the directory that `root` or the environment variable names, or None.

        Raises:
            DataError: if it does not hold the data set.
        """
        variable = self.dataset.variable
        for key, value in (("dataset.root", self.root), (variable, os.environ.get(variable) or None)):
            if value is None:
                continue
            directory = expand_home(value)
            missing = missing_files(self.dataset, directory) if directory.is_dir() else []
            if missing or not directory.is_dir():
                reason = f"lacks {', '.join(missing)}" if missing else "is not a directory"
                hint = conversion_hint(self.dataset.name, directory)
                advice = f"; {hint}" if hint else f": use a directory with {self.dataset.containers}"
                raise DataError(f"{key}={value!r} {reason}{advice}")
            return directory
        return None

    def search_path(self) -> list[Path]:
        """Return the directories to search first: what they hold is taken for the data set."""
        relative = (f"data/{self.dataset.name}", f"../shared/data/{self.dataset.name}")
        system = self.dataset.system_dir
        return [root / path for path in relative for root in search_roots()] + ([system] if system else [])

    def wider_search_path(self) -> list[tuple[Path, int]]:
        """Return directories to search next, with levels below them: other data sets may be there, so MD5s decide."""
        return [(root / "data", MAX_DEPTH) for root in search_roots()] + [(root, 2) for root in search_roots()]
