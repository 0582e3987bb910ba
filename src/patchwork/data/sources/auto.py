"""MNIST with a fallback, for a first run on any machine."""

import sys
import textwrap

from patchwork.core.errors import ResourceError
from patchwork.data.sources.base import ImageSource
from patchwork.data.sources.idx import NotFoundError
from patchwork.data.sources.mnist import MNIST
from patchwork.data.sources.uci import UCI


class Auto(MNIST):
    """MNIST where it is found or can be downloaded; otherwise the UCI digits, with a warning.

    It falls back where MNIST is unavailable or cannot be written. Damaged files, and a directory that was named and
    does not hold MNIST, are errors here, too. `validation` is for MNIST; the UCI digits have their own default.
    """

    def load(self) -> ImageSource:
        """Load MNIST, or the UCI digits.

        Raises:
            DataError: if MNIST is damaged, or not in the directory that was named.
            ConfigError: if `validation` leaves nothing to train on.
        """
        try:
            return super().load()
        except (NotFoundError, ResourceError) as reason:
            print_warning(str(reason))
            return UCI(folds=self.folds, fold=self.fold).load()


def print_warning(reason: str) -> None:
    """Print a framed block on stderr: plain text, so that a log file shows it as a terminal does."""
    paragraphs = (
        "WARNING: THESE ARE THE UCI DIGITS, NOT MNIST",
        "Results of this run are NOT MNIST results: never publish or compare them as such.",
        f"Reason: {reason}.",
        "Use dataset=mnist to make this an error, or dataset=uci to train on the UCI digits without a warning.",
    )
    lines = []
    for paragraph in paragraphs:
        lines += ["", *textwrap.wrap(paragraph, 92, break_long_words=False, break_on_hyphens=False)]
    framed = [f"##  {line}".rstrip() for line in lines]
    print("#" * 100, *framed, "##", "#" * 100, sep="\n", file=sys.stderr, flush=True)
