"""A transformer that draws: an image is written token after token, each with its probability (document 002).

1. Cut the image into patches in reading order. A patch holds one symbol or several; a symbol is a grey pixel, a binary
   pixel, or one of the sixteen ways to set 2×2 binary pixels.
2. A causal transformer reads the class and the patches so far, and says what it expects of the next one.
3. Where a patch has several symbols, a light head predicts them in turn, from what the transformer says, the pixels
   around and the symbols before. So the probability of the whole image stays exact.
4. `draw` goes the same way: sample a patch, append its keys and values to a cache, go on.

What is told first is one of ten classes, or a prompt in words, or nothing, so that one model gives p(image | class) and
p(image). Classes and words are only ever read: what comes out is a symbol.

Sources: iGPT, https://proceedings.mlr.press/v119/chen20s.html; guidance, https://arxiv.org/abs/2207.12598
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from einops import rearrange
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models.text_encoder import TextEncoder
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
        self.between = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, vocabulary)

    def context(self, x: Tensor, around: Tensor) -> Tensor:
        """Put together what the symbols of a patch share (B, T, H), of `x` (B, T, D) and pixels `around` (B, T, P)."""
        return self.outer(x) + self.around(around)

    def forward(self, context: Tensor, before: Tensor) -> Tensor:
        """Return the logits (B, T, K, V) of all symbols; `before` (B, T, K, P) is what each knows of its patch."""
        return self.answer(context[:, :, None] + self.before(before) + self.place.weight)

    def answer(self, hidden: Tensor) -> Tensor:
        """Turn what a symbol knows (…, H) into its logits (…, V)."""
        return answer(hidden, *self.weights())

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what `answer` weighs with."""
        return self.between.weight, self.between.bias, self.head.weight, self.head.bias


def answer(hidden: Tensor, weight: Tensor, bias: Tensor, head_weight: Tensor, head_bias: Tensor) -> Tensor:
    """Map (…, H) to (…, V) by two layers, in functions, as calls of modules would be felt in a step of drawing.

    SiLU is faster than GELU where there is little to do.
    """
    return F.linear(F.silu(F.linear(F.silu(hidden), weight, bias)), head_weight, head_bias)


class PixelDecoder(nn.Module):
    """Write images of `image_size` pixels, of one of `num_classes` classes or of none.

    Pixels are `levels`: 0 or 1, or 0 to 255 for `gray256`. `positions` is how the transformer knows where it is: by a
    learned vector for each patch, by a rotation with row and column, or not at all. With a `text_depth` above 0 it also
    understands prompts of up to `prompt_length` words, of `num_words`.

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
        num_heads: PositiveInt = 8,
        depth: PositiveInt = 2,
        mlp_ratio: PositiveFloat = 4.0,
        positions: Literal["learned", "rotary", "none"] = "learned",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        text_depth: NonNegativeInt = 0,
        num_words: PositiveInt = 1,
        prompt_length: PositiveInt = 1,
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
        self.text = (
            TextEncoder(num_words=num_words, length=prompt_length, depth=text_depth, embed_dim=embed_dim)
            if text_depth
            else None
        )
        self.token_embed = nn.Embedding(self.symbols * self.vocabulary, embed_dim)
        self.pos_embed = LearnedPositions(length=self.length, embed_dim=embed_dim) if positions == "learned" else None
        self.blocks = nn.ModuleList(
            Block(embed_dim=embed_dim, num_heads=num_heads, mlp_ratio=mlp_ratio, dropout=dropout, causal=True)
            for _ in range(depth)
        )
        grid = (self.rows, self.rows)
        self.rotary = AxialRotary(head_dim=embed_dim // num_heads, grid=grid) if positions == "rotary" else None
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

    def forward(self, image: Tensor, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Teacher forcing: logits (B, N, K, V) of each symbol of images (B, 1, height, width), given all before it.

        What is told of an image is its `label` (B,), a class or `none`, or its `prompt` (B, L), see `condition`.
        """
        symbols = self.tokenize(image)  # (B, N, K)
        x = self.read(symbols[:, :-1], self.condition(label, prompt))  # (B, N, D)
        if self.symbols == 1:
            return self.head(x)[:, :, None]
        context = self.inner.context(x, self.around(image))  # (B, N, H)
        return self.inner(context, self.before(symbols))  # (B, N, K, V)

    def log_likelihood(self, image: Tensor, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Return log p(image | what is told) (B,), in nats."""
        logits, symbols = self(image, label, prompt), self.tokenize(image)
        return -F.cross_entropy(logits.movedim(-1, 1), symbols, reduction="none").sum(dim=(1, 2))

    def condition(self, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Return what is told of images (B, D): their class, or what their prompt says.

        `prompt` (B, L) are words, and 0 around them; a row without any leaves the word to the class.
        """
        told = self.class_embed(label)
        if prompt is None or self.text is None:
            return told
        spoken = prompt.any(dim=1).nonzero()[:, 0]
        return told.index_put((spoken,), self.text(prompt[spoken]).to(told.dtype))

    def disagreement(self, label: Tensor, prompt: Tensor) -> Tensor:
        """Return the mean squared difference () of what prompts (B, L) say from what their classes (B,) do."""
        assert self.text is not None
        return F.mse_loss(self.text(prompt), self.class_embed(label).detach())

    def read(self, symbols: Tensor, told: Tensor, caches: list[Cache] | None = None) -> Tensor:
        """Say of what is told (B, D) and of each patch (B, T, K) what is to follow: (B, 1 + T, D).

        With `caches`, what they hold was read before: it is what is told at first, and then one patch after the other.
        """
        start = caches[0].length if caches else 0
        x = told[:, None]  # (B, 1, D)
        if symbols.shape[1]:
            offset = torch.arange(self.symbols, device=symbols.device) * self.vocabulary
            tokens = self.token_embed(symbols + offset).sum(dim=2) + x  # (B, T, D)
            x = tokens if start else torch.cat([x, tokens], dim=1)  # (B, 1 + T, D)
        if self.pos_embed is not None:
            x = self.pos_embed(x, start)
        rotate = self.rotary.at(start, x.shape[1]) if self.rotary is not None else None
        for index, block in enumerate(self.blocks):
            x = block(x, rotate=rotate, caches=(caches[index], None) if caches else None)
        return self.norm(x)

    def tokenize(self, image: Tensor) -> Tensor:
        """Map images (B, 1, height, width) of levels to symbols (B, N, K), in reading order."""
        return (self.units(image).long() * self.weights(image.device)).sum(dim=-1)

    def units(self, image: Tensor) -> Tensor:
        """Cut images (B, 1, height, width) into the pixels (B, N, K, unit²) of their symbols."""
        inside = self.side // self.unit
        return rearrange(
            image, "b 1 (h p k) (w q l) -> b (h w) (p q) (k l)", p=inside, q=inside, k=self.unit, l=self.unit
        )

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

    def assemble(self, pixels: Tensor) -> Tensor:
        """Put the pixels (B, 1, K, unit²) of one patch where they belong in it (B, side, side)."""
        inside, unit = self.side // self.unit, self.unit  # einops would be felt here, in a step of drawing
        return pixels.view(-1, inside, inside, unit, unit).transpose(2, 3).reshape(-1, self.side, self.side)

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

    def noise(self, count: int, chance: torch.Generator) -> Tensor:
        """Draw all that chance has a say in when `count` images are drawn: (count, N, K, V), of Gumbel's law."""
        return gumbel((count, self.length, self.symbols, self.vocabulary), chance).to(self.norm.weight)

    @torch.inference_mode()
    def draw(
        self,
        label: Tensor,
        noise: Tensor,
        *,
        prompt: Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        guidance: float = 1.0,
    ) -> Iterator[Tensor]:
        """Draw images (B, 1, height, width) of levels for what is told, and yield them after each patch.

        Equal `noise` (B, N, K, V) gives equal images. What is yielded is one tensor that goes on being drawn.
        `temperature` divides the logits; `top_k` and `top_p` keep the likeliest symbols, so many or of so much
        probability. `guidance` above 1 goes from what is said without a class towards, and beyond, what is said with
        it, at twice the cost.
        """
        told, guided = self.condition(label, prompt), guidance != 1
        if guided:
            told = torch.cat([told, self.condition(torch.full_like(label, self.none))])
        drawing = Drawing(self, told)
        for patch in noise.unbind(1):
            for chance in patch.unbind(1):
                logits = drawing.logits()  # (B, V), or (2B, V)
                if guided:
                    with_class, without = logits.chunk(2)
                    logits = without + guidance * (with_class - without)
                if temperature != 1:
                    logits = logits / temperature
                one = sample(logits, chance, top_k=top_k, top_p=top_p)  # (B,)
                drawing.put(one.repeat(2) if guided else one)
            yield drawing.image[: len(label)]

    @torch.inference_mode()
    def generate(self, label: Tensor, noise: Tensor, **choice: Any) -> Tensor:
        """Draw images (B, 1, height, width) at once; see `draw`."""
        *_, image = self.draw(label, noise, **choice)
        return image

    @torch.inference_mode()
    def complete(self, image: Tensor, known: Tensor, label: Tensor, chance: torch.Generator, particles: int) -> Tensor:
        """Draw what is not `known` (height, width) of one image (1, height, width), for each of `label` (B,).

        What is known after a place, in reading order, has a say in what is drawn there, but the model knows the law of
        what comes after alone. So each completion is chosen among `particles`, by sequential Monte Carlo: they are
        drawn together, weighed by the probability that they give to known pixels, and drawn anew in proportion to
        their weights when few of them carry most of it. With more particles the law of the completions comes as near
        as wished to the model's own (Doucet and Johansen 2009,
        https://www.stats.ox.ac.uk/~doucet/doucet_johansen_tutorialPF2011.pdf); where nothing known comes after what is
        drawn, one is enough and it is the model's own.

        Returns:
            images (B, 1, height, width), with what is known in place.
        """
        every = self.pixels(torch.arange(self.vocabulary, device=image.device))  # (V, unit²)
        levels, fixed = (self.units(pixels[None].to(image)).flatten(1, 2)[0] for pixels in (image, known[None]))
        fixed = fixed.bool()  # (N · K, unit²)
        free, seen = (~fixed).any(dim=1).nonzero(), fixed.any(dim=1).nonzero()
        first = int(free[0]) if len(free) else len(fixed)  # the first symbol to be drawn
        if not (seen > first).any():
            particles = 1
        group = torch.arange(len(label))[:, None] * particles  # (B, 1)
        weight = torch.zeros(len(label), particles, dtype=torch.double)  # log
        drawing = Drawing(self, self.condition(label))
        for number, (level, told) in enumerate(zip(levels, fixed, strict=True)):
            if number == first:  # up to here all particles are one
                drawing.keep(torch.arange(len(label)).repeat_interleave(particles))
            fits = ((every == level) | ~told).all(dim=-1)  # (V,)
            law = drawing.logits().log_softmax(dim=-1).masked_fill(~fits, -torch.inf)  # (B · P, V)
            if number >= first and not fits.all():
                weight = weight + law.logsumexp(dim=-1).view_as(weight).cpu()
                share = weight.softmax(dim=-1)
                poor = 1 / share.square().sum(dim=-1, keepdim=True) < particles / 2  # (B, 1)
                if poor.any():
                    kept = (group + torch.where(poor, systematic(share, chance), torch.arange(particles))).flatten()
                    drawing.keep(kept)
                    law, weight = law[kept], weight.masked_fill(poor, 0)
            drawing.put(sample(law, gumbel(law.shape, chance).to(law)))
        if number < first:  # nothing was to be drawn
            return drawing.image
        kept = group + weight.softmax(dim=-1).multinomial(1, generator=chance)
        return drawing.image[kept.flatten()]

    @torch.inference_mode()
    def stepwise(self, image: Tensor, label: Tensor) -> Tensor:
        """Return the logits of `forward` (B, N, K, V) as they are when the images are drawn, symbol after symbol."""
        drawing, said = Drawing(self, self.condition(label)), []
        for symbol in self.tokenize(image).flatten(1).unbind(1):
            said.append(drawing.logits())
            drawing.put(symbol)
        return torch.stack(said, dim=1).unflatten(1, (self.length, self.symbols))


class Drawing:
    """Images under way: `logits` says what is expected of the next symbol, and `put` sets it.

    What was drawn is read once, and kept in caches that are as long as an image from the beginning.

    Args:
        model: who draws.
        told: what is to be drawn (B, D).
    """

    def __init__(self, model: PixelDecoder, told: Tensor) -> None:
        self.model, self.told = model, told
        self.caches = [Cache(model.length) for _ in model.blocks]
        self.image = told.new_zeros(len(told), 1, model.rows * model.side, model.rows * model.side)
        self.canvas = torch.zeros_like(model.canvas(self.image))  # with its margin; 0 where nothing is drawn
        self.patch = told.new_zeros(len(told), 0, model.symbols, dtype=torch.long)  # the last one
        self.symbols: list[Tensor] = []  # (B,) each, of the next one
        self.hidden = told.new_zeros(len(told), 0)  # what the inner head knows of it (B, H)
        self.place = 0  # where it is
        self.pixels = model.pixels(torch.arange(model.vocabulary, device=told.device)).to(told.dtype)  # (V, unit²)
        if model.symbols > 1:  # what a symbol, and its place, has to say to those after it
            weight = model.inner.before.weight.unflatten(1, (model.symbols, -1))  # (H, K, unit²)
            said = torch.einsum("hkp,vp->kvh", weight, self.pixels * 2 - 1)[:-1]  # (K - 1, V, H)
            self.said = (said + model.inner.place.weight.diff(dim=0)[:, None]).unbind()
            self.weights = model.inner.weights()

    def logits(self) -> Tensor:
        """Return the logits (B, V) of the next symbol."""
        model = self.model
        if not self.symbols:
            x = self.read()  # (B, 1, D)
            if model.symbols == 1:
                return model.head(x)[:, 0]
            context = model.inner.context(x, model.window(self.seen().flatten(1)[:, None]))  # (B, 1, H)
            self.hidden = context[:, 0] + model.inner.place.weight[0]  # (B, H)
        return answer(self.hidden, *self.weights)

    def read(self) -> Tensor:
        """Read the last patch, or at first what is told; return what is said of the next one (B, 1, D)."""
        return self.model.read(self.patch, self.told, self.caches)

    def put(self, symbol: Tensor) -> None:
        """Set the next symbol (B,); after the last one of a patch, draw it."""
        self.symbols.append(symbol)
        if len(self.symbols) < self.model.symbols:
            self.hidden = self.hidden + self.said[len(self.symbols) - 1].index_select(0, symbol)
            return
        self.patch, self.symbols = torch.stack(self.symbols, dim=1)[:, None], []  # (B, 1, K)
        pixels, side, margin = self.model.assemble(self.pixels[self.patch]), self.model.side, REACH * self.model.side
        row, col = self.corner()
        self.image[:, 0, row : row + side, col : col + side] = pixels
        self.canvas[:, 0, margin + row : margin + row + side, margin + col : margin + col + side] = pixels * 2 - 1
        self.place += 1

    def corner(self) -> tuple[int, int]:
        row, col = divmod(self.place, self.model.rows)
        return row * self.model.side, col * self.model.side

    def seen(self) -> Tensor:
        """Return the window (B, height, width) of the canvas that ends with the next patch, in its last row."""
        (row, col), (height, width) = self.corner(), self.model.kernel
        return self.canvas[:, 0, row : row + height, col : col + width]

    def keep(self, chosen: Tensor) -> None:
        """Go on with the images `chosen` (B',), each as often as it is named."""
        self.told, self.image, self.canvas = self.told[chosen], self.image[chosen], self.canvas[chosen]
        self.patch, self.symbols = self.patch[chosen], [symbol[chosen] for symbol in self.symbols]
        self.hidden = self.hidden[chosen]
        for cache in self.caches:
            cache.keep(chosen)


def gumbel(shape: Sequence[int], chance: torch.Generator) -> Tensor:
    """Draw noise of Gumbel's law, on the processor."""
    return torch.empty(shape).exponential_(generator=chance).log_().neg_()


def sample(logits: Tensor, noise: Tensor, *, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """Choose symbols (B,) by their logits (B, V): the largest, once Gumbel's `noise` (B, V) is added, has their law.

    `top_k` keeps the likeliest symbols; `top_p` the fewest of the likeliest that have so much probability together.
    Source: Maddison et al. 2014, https://arxiv.org/abs/1411.0030
    """
    if top_k is not None or top_p < 1:
        law, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
        dropped = law.cumsum(dim=-1) - law >= top_p  # so much have the likelier ones
        if top_k is not None:
            dropped[:, top_k:] = True
        logits = logits.masked_fill(dropped.scatter(1, order, dropped), -torch.inf)
    return (logits + noise).argmax(dim=-1)


def systematic(share: Tensor, chance: torch.Generator) -> Tensor:
    """Choose P of P particles by their shares (B, P), each nearly as often as its share says; return which (B, P)."""
    count = share.shape[1]
    steps = (torch.arange(count) + torch.rand(len(share), 1, generator=chance, dtype=share.dtype)) / count
    return torch.searchsorted(share.cumsum(dim=-1), steps).clamp_max(count - 1)
