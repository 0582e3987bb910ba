"""Sentences about arguments from docstrings."""

from patchwork.core.docstrings import argument_sentences, summary


class Parent:
    """A parent.

    Args:
        size: of the
            thing.
        name (str): its ``name``.

            More of it.
    """


class Child(Parent):
    """A child in one line.

    More
    lines.
    """

    def __init__(self, *, depth: int) -> None:
        """Make one.

        Args:
            depth: below the :class:`~patchwork.Parent`.

        Raises:
            ValueError: never.
        """


def test_sentences_of_a_class_and_its_parents() -> None:
    assert argument_sentences(Child) == {
        "depth": "below the patchwork.Parent.",
        "size": "of the thing.",
        "name": "its name.",
    }


def test_summary_is_the_first_paragraph() -> None:
    assert summary(Child) == "A child in one line."
    assert summary(type("Bare", (), {})) == ""
