"""Read the sentences about arguments from docstrings: the one place where a key is explained."""

import inspect
import re
from typing import Any


def summary(target: Any) -> str:
    """Return the first sentence of a docstring, in one line."""
    paragraph = inspect.cleandoc(target.__doc__ or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def argument_sentences(target: Any) -> dict[str, str]:
    """Return what the docstring of a function, or of a class and its parents, says about each argument, in one line."""
    sentences: dict[str, str] = {}
    for owner in target.__mro__ if isinstance(target, type) else [target]:
        for function in (owner, vars(owner).get("__init__")) if isinstance(owner, type) else [owner]:
            for name, sentence in parse_arguments(getattr(function, "__doc__", None) or "").items():
                sentences.setdefault(name, sentence)
    return sentences


def parse_arguments(docstring: str) -> dict[str, str]:
    """Parse the section `Args:` of a docstring in Google's style; of an argument with several paragraphs, the first."""
    lines = iter(inspect.cleandoc(docstring).splitlines())
    for line in lines:
        if line.rstrip() == "Args:":
            break
    sentences: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line and not line.startswith(" "):
            break
        if match := re.match(r" {4}\*{0,2}(\w+)(?: \([^)]*\))?: ?(.*)$", line):
            current = sentences.setdefault(match[1], [])
            current.append(match[2])
        elif line.strip() or not any(current):
            current.append(line)
        else:
            current = []  # the end of its first paragraph
    return {name: plain_text(" ".join(lines)) for name, lines in sentences.items()}


def plain_text(text: str) -> str:
    """Return reStructuredText without its markup, in one line."""
    text = re.sub(r":\w+:`~?([^`<]*?)(?: ?<[^`]*>)?`", r"\1", text)
    return " ".join(text.replace("``", "").split())
