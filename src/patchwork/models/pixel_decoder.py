"""A transformer that draws: an image is written token after token, each with its probability (document 002).

1. Cut the image into patches in reading order. A patch holds one symbol or several; a symbol is a grey pixel, a binary
   pixel, or one of the sixteen ways to set 2×2 binary pixels.
2. A causal transformer reads the class and the patches so far, and says what it expects of the next one.
3. Where a patch has several symbols, a light head predicts them in turn, from what the transformer says, the pixels
   around and the symbols before. So the probability of the whole image stays exact.
4. `draw` goes the same way: sample a patch, append its keys and values to a cache, go on.

The class is one of ten or none, so that one model gives p(image | class) and p(image). Classes are only ever read: what
comes out is a symbol.

Sources: iGPT, https://proceedings.mlr.press/v119/chen20s.html; guidance, https://arxiv.org/abs/2207.12598
"""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from einops import rearrange
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models.transformer import AxialRotary, Block, Cache, LearnedPositions, initialise

Tokens = Literal["gray256", "binary", "patch2x2", "patch4x4"]
SIDES = {"gray256": (1, 1), "binary": (1, 1), "patch2x2": (2, 2), "patch4x4": (4, 2)}  # of a patch, of a symbol: pixels
REACH = 2  # patches: how far around itself a patch is seen by the inner head


class InnerHead(nn.Module):
    """Predict the K symbols of a patch in turn.

    It knows what the transformer says of the patch, the pixels of the patches around that are drawn already, and those
    of the patch's own symbols before.
    """

    def __init__(self, *, embed_dim: int, hidden: int, patch: int, symbols: int, vocabulary: int) -> None:
        super().__init__()
        seen = patch * REACH * (2 * REACH + 2)  # pixels of the patches above, and of those to the left
        self.outer = nn.Linear(embed_dim, hidden)
        self.around = nn.Linear(seen, hidden, bias=False)
        self.before = nn.Linear(patch, hidden, bias=False)
        self.place = LearnedPositions(length=symbols, embed_dim=hidden)
        self.mlp = nn.Sequential(nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.head = nn.Linear(hidden, vocabulary)

    def context(self, x: Tensor, around: Tensor) -> Tensor:
        """Put together what the symbols of a patch share (B, T, H), of `x` (B, T, D) and pixels `around` (B, T, P)."""
        return self.outer(x) + self.around(around)

    def forward(self, context: Tensor, before: Tensor, start: int = 0) -> Tensor:
        """Return the logits (B, T, K, V) of symbols from `start` on; `before` (B, T, K, P) is what each knows."""
        hidden = context[:, :, None] + self.before(before)  # (B, T, K, H)
        hidden = hidden + self.place.weight[start : start + before.shape[2]]
        return self.head(self.mlp(hidden))


class PixelDecoder(nn.Module):
    """Write images of `image_size` pixels, of one of `num_classes` classes or of none.

    Pixels are `levels`: 0 or 1, or 0 to 255 for `gray256`. `positions` is how the transformer knows where it is: by a
    learned vector for each patch, by a rotation with row and column, or not at all.

    Raises:
        ValueError: if tokens fit neither the levels nor the image, or heads do not divide the width.
    """

    def __init__(
        self,
        *,
        image_size: PositiveInt,
        num_classes: PositiveInt,
        levels: Literal[2, 256],
        tokens: Tokens = "patch4x4",
        embed_dim: PositiveInt = 128,
        num_heads: PositiveInt = 4,
        depth: PositiveInt = 3,
        mlp_ratio: PositiveFloat = 4.0,
        positions: Literal["learned", "rotary", "none"] = "rotary",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        super().__init__()
        self.side, self.unit = SIDES[tokens]
        if (levels == 256) is not (tokens == "gray256"):
            raise ValueError(f"levels={levels} are not those of tokens={tokens}: use {256 if levels == 2 else 2}")
        if image_size % self.side:
            raise ValueError(f"tokens={tokens} do not divide an image of {image_size} pixels")
        self.levels, self.none = levels, num_classes
        self.rows = image_size // self.side
        self.length = self.rows**2  # patches of an image
        self.symbols = (self.side // self.unit) ** 2  # of a patch
        self.vocabulary = levels**self.unit**2
        self.class_embed = nn.Embedding(num_classes + 1, embed_dim)
        self.token_embed = nn.Embedding(self.symbols * self.vocabulary, embed_dim)
        self.pos_embed = LearnedPositions(length=self.length, embed_dim=embed_dim) if positions == "learned" else None
        grid = (self.rows, self.rows)
        self.rotary = AxialRotary(head_dim=embed_dim // num_heads, grid=grid) if positions == "rotary" else None
        self.blocks = nn.ModuleList(
            Block(embed_dim=embed_dim, num_heads=num_heads, mlp_ratio=mlp_ratio, dropout=dropout, causal=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        if self.symbols == 1:
            self.head = nn.Linear(embed_dim, self.vocabulary)
        else:
            self.inner = InnerHead(
                embed_dim=embed_dim,
                hidden=2 * embed_dim,
                patch=self.side**2,
                symbols=self.symbols,
                vocabulary=self.vocabulary,
            )
        initialise(self)
        nn.init.zeros_((self.head if self.symbols == 1 else self.inner.head).weight)  # begin with a uniform prediction

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """Teacher forcing: logits (B, N, K, V) of each symbol of images (B, 1, height, width), given all before it.

        `label` (B,) is a class, or `none`.
        """
        symbols = self.tokenize(image)  # (B, N, K)
        x = self.read(symbols[:, :-1], label)  # (B, N, D)
        if self.symbols == 1:
            return self.head(x)[:, :, None]
        context = self.inner.context(x, self.around(image))  # (B, N, H)
        return self.inner(context, self.before(symbols))  # (B, N, K, V)

    def log_likelihood(self, image: Tensor, label: Tensor) -> Tensor:
        """Return log p(image | label) (B,), in nats."""
        logits, symbols = self(image, label), self.tokenize(image)
        return -F.cross_entropy(logits.movedim(-1, 1), symbols, reduction="none").sum(dim=(1, 2))

    def read(self, symbols: Tensor, label: Tensor, caches: list[Cache] | None = None) -> Tensor:
        """Say of the class and of each patch (B, T, K) what is to follow: (B, 1 + T, D).

        With `caches`, what they hold was read before: it is the class at first, and then one patch after the other.
        """
        start = caches[0].length if caches else 0
        x = self.class_embed(label)[:, None]  # (B, 1, D)
        if symbols.shape[1]:
            offset = torch.arange(self.symbols, device=symbols.device) * self.vocabulary
            tokens = self.token_embed(symbols + offset).sum(dim=2) + x  # (B, T, D)
            x = tokens if start else torch.cat([x, tokens], dim=1)  # (B, 1 + T, D)
        if self.pos_embed is not None:
            x = self.pos_embed(x, start)
        rotate = partial(self.rotary, start=start) if self.rotary is not None else None
        for index, block in enumerate(self.blocks):
            x = block(x, rotate=rotate, caches=(caches[index], None) if caches else None)
        return self.norm(x)

    def tokenize(self, image: Tensor) -> Tensor:
        """Map images (B, 1, height, width) of levels to symbols (B, N, K), in reading order."""
        inside = self.side // self.unit
        units = rearrange(
            image.long(), "b 1 (h p k) (w q l) -> b (h w) (p q) (k l)", p=inside, q=inside, k=self.unit, l=self.unit
        )
        return (units * self.weights(image.device)).sum(dim=-1)

    def pixels(self, symbols: Tensor) -> Tensor:
        """Map symbols (B, T, K) to the levels (B, T, K, unit²) of their pixels."""
        return symbols[..., None] // self.weights(symbols.device) % self.levels

    def weights(self, device: torch.device) -> Tensor:
        return self.levels ** torch.arange(self.unit**2, device=device)

    def picture(self, symbols: Tensor) -> Tensor:
        """Map symbols (B, N, K) of whole images to their levels (B, 1, height, width): the inverse of `tokenize`."""
        inside = self.side // self.unit
        return rearrange(
            self.pixels(symbols),
            "b (h w) (p q) (k l) -> b 1 (h p k) (w q l)",
            h=self.rows,
            p=inside,
            k=self.unit,
        )

    def patch(self, symbols: Tensor) -> Tensor:
        """Map the symbols (B, 1, K) of one patch to its levels (B, side, side)."""
        inside = self.side // self.unit
        return rearrange(self.pixels(symbols), "b 1 (p q) (k l) -> b (p k) (q l)", p=inside, k=self.unit)

    def around(self, image: Tensor) -> Tensor:
        """Return the pixels (B, N, P) of the patches around each that are drawn before it; 0 beyond the edge."""
        return self.window(F.unfold(self.canvas(image), self.kernel, stride=self.side).mT)

    @property
    def kernel(self) -> tuple[int, int]:
        return (REACH + 1) * self.side, (2 * REACH + 1) * self.side

    def canvas(self, image: Tensor) -> Tensor:
        """Give images a margin of 0, and their pixels the values -1 and 1."""
        margin = REACH * self.side
        return F.pad(image.to(self.norm.weight.dtype) * 2 - 1, (margin, margin, margin, 0))

    def window(self, seen: Tensor) -> Tensor:
        """Take from windows (B, T, height · width) what is drawn before their last patch."""
        margin = REACH * self.side
        seen = seen.unflatten(2, self.kernel)
        above, left = seen[:, :, :margin], seen[:, :, margin:, :margin]
        return torch.cat([above.flatten(2), left.flatten(2)], dim=2)

    def before(self, symbols: Tensor) -> Tensor:
        """Return for each symbol of patches (B, T, K) the pixels (B, T, K, P) of those before it; 0 for the others."""
        pixels = self.pixels(symbols).to(self.norm.weight.dtype) * 2 - 1  # (B, T, K, unit²)
        earlier = torch.ones(self.symbols, self.symbols, device=symbols.device).tril(-1)
        return (pixels[:, :, None] * earlier[..., None]).flatten(3)

    @torch.no_grad()
    def draw(
        self,
        label: Tensor,
        noise: Tensor,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        guidance: float = 1.0,
    ) -> Iterator[Tensor]:
        """Draw images (B, 1, height, width) of levels for `label` (B,), and yield them after each patch.

        `noise` (B, N, K), even in [0, 1), is all that chance has a say in: equal noise gives equal images. What is
        yielded is one tensor that goes on being drawn. `temperature` divides the logits; `top_k` and `top_p` keep the
        likeliest symbols, so many or of so much probability. `guidance` above 1 goes from what is said without a class
        towards, and beyond, what is said with it, at twice the cost.
        """
        count, guided = len(label), guidance != 1
        margin = REACH * self.side
        if guided:
            label = torch.cat([label, torch.full_like(label, self.none)])
        caches = [Cache(self.length) for _ in self.blocks]
        image = torch.zeros(count, 1, self.rows * self.side, self.rows * self.side, device=label.device)
        canvas = self.canvas(image)  # (B, 1, margin + height, margin + width + margin)
        canvas.zero_()
        symbols = noise.new_empty(len(label), 0, self.symbols, dtype=torch.long)
        for place in range(self.length):
            row, col = (place // self.rows * self.side, place % self.rows * self.side)
            x = self.read(symbols, label, caches)  # (B, 1, D)
            if self.symbols > 1:
                height, width = self.kernel
                seen = canvas[:, :, row : row + height, col : col + width].flatten(1)[:, None]  # (B, 1, P)
                seen = torch.cat([seen, seen]) if guided else seen
                context = self.inner.context(x, self.window(seen))
            chosen = noise.new_zeros(len(label), 1, self.symbols, dtype=torch.long)
            for turn in range(self.symbols):
                if self.symbols == 1:
                    logits = self.head(x)[:, 0]  # (B, V)
                else:
                    logits = self.inner(context, self.before(chosen)[:, :, turn : turn + 1], turn)[:, 0, 0]  # (B, V)
                if guided:
                    told, untold = logits.chunk(2)
                    logits = untold + guidance * (told - untold)
                one = sample(logits / temperature, noise[:, place, turn], top_k=top_k, top_p=top_p)  # (B,)
                chosen[:, 0, turn] = torch.cat([one, one]) if guided else one
            symbols = chosen
            patch = self.patch(chosen[:count])  # (B, side, side)
            image[:, 0, row : row + self.side, col : col + self.side] = patch
            canvas[:, 0, margin + row : margin + row + self.side, margin + col : margin + col + self.side] = (
                patch * 2 - 1
            )
            yield image

    @torch.no_grad()
    def generate(self, label: Tensor, noise: Tensor, **choice: Any) -> Tensor:
        """Draw images (B, 1, height, width) at once; see `draw`."""
        *_, image = self.draw(label, noise, **choice)
        return image


def sample(logits: Tensor, noise: Tensor, *, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """Choose symbols (B,) by their logits (B, V): the first whose cumulative probability exceeds `noise` (B,).

    `top_k` keeps the likeliest symbols; `top_p` the fewest of the likeliest that have so much probability together.
    """
    law = logits.softmax(dim=-1)
    if top_k is not None or top_p < 1:
        sorted_law, order = law.sort(dim=-1, descending=True)
        before = sorted_law.cumsum(dim=-1) - sorted_law  # what likelier symbols have
        kept = before < top_p
        if top_k is not None:
            kept[:, top_k:] = False
        law = torch.zeros_like(law).scatter(1, order, sorted_law * kept)
    total = law.cumsum(dim=-1)
    return (total <= noise[:, None] * total[:, -1:]).sum(dim=-1).clamp_max(logits.shape[-1] - 1)
