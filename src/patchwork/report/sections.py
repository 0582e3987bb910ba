"""The figures of a page, in the order of the page.

A figure `name` has a module `patchwork.analysis.<name>` with `analyze(inputs)`, which returns a `Result` or raises
`NotApplicableError`, and a module `patchwork.figures.<name>` with `render(result)`, which returns a `Rendered`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A figure of a page.

    Attributes:
        name: of its two modules, of its files and of its anchor in the page.
        title: its heading.
        short: whether it is quick enough for the page that every training ends with.
    """

    name: str
    title: str
    short: bool = False


SECTIONS: tuple[Section, ...] = (
    Section("confusion", "What is confused with what", short=True),
    Section("attention", "Where it looks", short=True),
    Section("generation", "What it expects of each patch, and where it looks"),
    Section("sums", "How a sum is made of its images"),
    Section("matches", "What it takes for the anchor"),
    Section("ablation", "What it cannot do without"),
    Section("patching", "Which activation carries the answer"),
    Section("logit_attribution", "What each part adds to an answer"),
    Section("faithfulness", "What its answers come from, and which explanation to believe"),
    Section("probes", "What can be read off each layer"),
    Section("embeddings", "How it arranges them"),
    Section("neighbors", "Its surest mistakes, and the training images nearest to them"),
    Section("learning", "How it learned it"),
    Section("calibration", "How far its probabilities can be trusted", short=True),
)
