"""Sequences of digits of any length, each digit an image; with an anchor image before them if wanted (document 001)."""

from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from pydantic import PositiveInt
from torch import Tensor

from patchwork.data.handwriting import Handwriting, normalise
from patchwork.data.stream import Batch, Key, Part, generator, shuffled
from patchwork.errors import ConfigError

Drawn = dict[str, Tensor]  # `digits` (n, S) as indices of a part, `length` (n,), and `anchor` (n,) if there is one


class Sequences(Handwriting):
    """Sequences of 1 to `max_length` digit images.

    A batch holds `image` (B, S, 1, image_size, image_size), normalised, with zeros where a sequence has ended; `mask`
    (B, S), true where it has not; and `digits` (B, S), what is seen there, 0 beyond the end. S is `max_length`. With
    `anchored` it also holds `anchor` (B, 1, image_size, image_size), `match` (B, S), true where a digit is of the
    anchor's class, and `present` (B,), whether there is any; an image never is its own match.

    Two ways of drawing them:

    - `random`: digits are drawn with replacement and lengths evenly, anew in every epoch.
    - `consecutive`: document 001's windows. Sequence i begins with digit i and goes on with those that follow it in
      the part's order; the anchor is the digit before it; its length is drawn once, evenly, for each i. An epoch
      shuffles the same windows.

    Args:
        image_size: pixels of a side.
        max_length: digits in the longest sequence.
        test_lengths: longer sequences to test on besides, `test_size` of each length.
        sampling: `random` or `consecutive`.
        anchored: whether there is an anchor.
        balance: share of the sequences that hold a match, or null for as many as chance brings; `random` only.

    Raises:
        ValueError: if settings do not fit together.
    """

    def __init__(
        self,
        *,
        image_size: PositiveInt = 28,
        max_length: PositiveInt = 10,
        test_lengths: list[PositiveInt] | None = None,
        sampling: Literal["random", "consecutive"] = "random",
        anchored: bool = False,
        balance: Annotated[float, Interval(gt=0, lt=1)] | None = None,
        **handwriting: object,
    ) -> None:
        super().__init__(**handwriting)  # type: ignore[arg-type]
        if test_lengths and anchored:
            raise ValueError(f"test_lengths={test_lengths} is not for anchored sequences: use []")
        for length in test_lengths or []:
            if length <= max_length:
                raise ValueError(f"test_lengths={test_lengths}: {length} is not longer than max_length={max_length}")
        if balance is not None and not (anchored and sampling == "random"):
            raise ValueError(f"balance={balance} is for anchored sequences with sampling=random: use null")
        self.image_size = image_size
        self.max_length = max_length
        self.test_lengths = test_lengths or []
        self.sampling = sampling
        self.anchored = anchored
        self.balance = balance

    @property
    def gives(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("image", "mask", "digits", *(("anchor", "match", "present") if self.anchored else ()))

    def fix(self) -> None:
        for part, split in self.parts.items():
            if self.sampling == "consecutive" and len(split.labels) <= self.max_length:
                raise ConfigError(
                    f"data.max_length={self.max_length} is too long for the {len(split.labels)} {part} digits: "
                    f"use up to {len(split.labels) - 1}"
                )
            if self.anchored and split.labels.bincount(minlength=self.num_classes).min() < 2:
                raise ConfigError(f"a class has fewer than 2 {part} digits, and an anchor needs another: see digits")
        self.fixed: dict[Part, Drawn] = {}
        for part in ("val", "test"):
            draw = generator(part)
            self.fixed[part] = self.draw(part, self.sizes[part], draw, self.max_length)
        self.longer = [
            self.draw("test", self.sizes["test"], generator("test", length), length, exactly=True)
            for length in self.test_lengths
        ]
        if self.sampling == "consecutive":
            self.fixed["train"] = self.windows("train", generator("train"), self.max_length)

    def draw(self, part: Part, count: int, draw: torch.Generator, max_length: int, *, exactly: bool = False) -> Drawn:
        """Draw `count` sequences of up to, or exactly, `max_length` digits."""
        if self.sampling == "consecutive" and not exactly:
            windows = self.windows(part, draw, max_length)
            chosen = torch.randint(len(windows["length"]), (count,), generator=draw)
            return {name: values[chosen] for name, values in windows.items()}
        total = len(self.parts[part].labels)
        low = max_length if exactly else 1
        length = torch.randint(low, max_length + 1, (count,), generator=draw)
        if not self.anchored:
            return {"digits": torch.randint(total, (count, max_length), generator=draw), "length": length}
        return {**self.around_anchor(part, length, max_length, draw), "length": length}

    def windows(self, part: Part, draw: torch.Generator, max_length: int) -> Drawn:
        """Return all windows of a part: the digits after each but the first, and that one as the anchor."""
        total = len(self.parts[part].labels)
        first = torch.arange(1, total - max_length + 1)
        length = torch.randint(1, max_length + 1, first.shape, generator=draw)
        drawn = {"digits": first[:, None] + torch.arange(max_length), "length": length}
        return drawn | {"anchor": first - 1} if self.anchored else drawn

    def around_anchor(self, part: Part, length: Tensor, max_length: int, draw: torch.Generator) -> Drawn:
        """Draw an anchor for each of `length` (n,), and digits other than it.

        With a balance, whether there is a match is drawn first. If so, one place, drawn evenly, gets a digit of the
        anchor's class and the others what chance brings; if not, all places get digits of other classes.
        """
        labels = self.parts[part].labels
        order = labels.argsort(stable=True)  # digits class by class
        begins = torch.searchsorted(labels[order], torch.arange(self.num_classes + 1))
        shape, total = (len(length), max_length), len(labels)
        anchor = torch.randint(total, (len(length),), generator=draw)  # as a place in `order`
        begin, end = begins[labels[order[anchor]]][:, None], begins[labels[order[anchor]] + 1][:, None]
        chance = torch.rand(shape, generator=draw)
        anything = (chance * (total - 1)).long()  # any digit but the anchor
        digits = anything + (anything >= anchor[:, None])
        if self.balance is not None:
            present = torch.rand(len(length), 1, generator=draw) < self.balance
            other = (chance * (total - (end - begin))).long()  # any digit of another class
            other = other + (other >= begin) * (end - begin)
            same = begin + (chance * (end - begin - 1)).long()  # another digit of the same class
            same = same + (same >= anchor[:, None])
            place = (torch.rand(len(length), 1, generator=draw) * length[:, None]).long()
            here = torch.arange(max_length) == place
            digits = torch.where(present, torch.where(here, same, digits), other)
        return {"digits": order[digits], "anchor": order[anchor]}

    def length(self, part: Part) -> int:
        """Return the number of batches: the test's are followed by those of each of `test_lengths`."""
        longer = sum(len(self.slices(length)) for length in self.test_lengths) if part == "test" else 0
        return super().length(part) + longer

    def slices(self, length: int) -> list[slice]:
        """Cut the test sequences of one length into batches of about as many images as the others have."""
        world = self.trainer.world_size if self.trainer else 1
        step = max(1, self.eval_batch_size * self.max_length // length // world) * world
        return [slice(start, start + step) for start in range(0, self.sizes["test"], step)]

    def evaluation(self, part: Part, index: int) -> Drawn:
        """Return what a batch of validation or test is made of."""
        drawn, slices = (
            self.fixed[part],
            [slice(start, start + self.eval_batch_size) for start in range(0, self.sizes[part], self.eval_batch_size)],
        )
        for length, longer in zip(self.test_lengths, self.longer, strict=True):
            if index < len(slices):
                break
            drawn, slices, index = longer, self.slices(length), index - len(slices)
        return {name: values[slices[index]] for name, values in drawn.items()}

    def make(self, part: Part, key: Key, shard: slice) -> Batch:
        epoch, index = key
        draw = generator("batch", self.seed, epoch, index)
        if part != "train":
            drawn = self.evaluation(part, index)
        elif self.sampling == "random":
            drawn = self.draw(part, self.batch_size, draw, self.max_length)
        else:
            windows = self.fixed["train"]
            samples = torch.arange(self.batch_size) + index * self.batch_size
            chosen = shuffled(self.seed, epoch, len(windows["length"]))[samples % len(windows["length"])]
            drawn = {name: values[chosen] for name, values in windows.items()}
        count, longest = drawn["digits"].shape
        deformations = self.deformations(part, count, longest + 1, draw=draw)  # the last is the anchor's
        return self.assemble(part, {name: values[shard] for name, values in drawn.items()}, pick(deformations, shard))

    def assemble(self, part: Part, drawn: Drawn, deformations: Tensor | None) -> Batch:
        """Look up the images of sequences, deformed by (B, S + 1, 55) if given."""
        labels, size = self.parts[part].labels, self.image_size
        mask = torch.arange(drawn["digits"].shape[1]) < drawn["length"][:, None]  # (B, S)
        image = torch.zeros(*mask.shape, 1, size, size)
        seen = drawn["digits"][mask]  # (n,)
        image[mask] = normalise(self.pixels(part, seen, pick(deformations, (slice(None), slice(-1)), mask)))[:, None]
        batch = {"image": image, "mask": mask, "digits": labels[drawn["digits"]] * mask}
        if "anchor" in drawn:
            anchor = self.pixels(part, drawn["anchor"], pick(deformations, (slice(None), -1)))
            match = (batch["digits"] == labels[drawn["anchor"]][:, None]) & mask
            batch |= {"anchor": normalise(anchor)[:, None], "match": match, "present": match.any(dim=1)}
        return batch


def pick(values: Tensor | None, *places: Any) -> Tensor | None:
    """Index `values` by one place after the other, if there are any."""
    for place in places:
        values = None if values is None else values[place]
    return values
