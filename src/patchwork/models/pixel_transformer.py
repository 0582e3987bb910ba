"""An autoregressive transformer of images: it generates an image token by token and knows its exact likelihood.

1. Cut the image into patches in raster order. A patch holds one sub-token or several; a sub-token is a gray pixel, a
   binary pixel, or one of the sixteen ways to set 2×2 binary pixels (see `PatchTokenizer`).
2. A causal transformer reads the condition and the patches so far, and encodes the prediction of the next patch.
3. Where a patch has several sub-tokens, a light head predicts them in turn (see `PatchHead`), so that the probability
   of the whole image stays exact.
4. Sampling takes the same steps with a key-value cache.

The condition is a class, a text prompt, or the null class: one model gives p(image | class), p(image | prompt) and
p(image). Conditions are inputs only; the vocabulary of the output holds nothing but pixels.

Sources: iGPT, https://proceedings.mlr.press/v119/chen20s.html; classifier-free guidance,
https://arxiv.org/abs/2207.12598
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models.conditioning import Conditioning
from patchwork.models.generator import DEFAULT_SAMPLING, SamplingOptions
from patchwork.models.inpainting import smc_inpaint
from patchwork.models.patch_head import PatchHead, silu_mlp
from patchwork.models.patch_tokenizer import PatchTokenizer, TokenizerName
from patchwork.models.sampling import gumbel, gumbel_max_sample
from patchwork.models.transformer import AxialRoPE, Block, KVCache, LearnedPosEmbed, init_weights

INPAINT_CACHE_BYTES = 2**27  # key-value caches held at a time while inpainting


class PixelTransformer(nn.Module):
    """An autoregressive generator of square images; it implements every protocol of `patchwork.models.generator`.

    Args:
        image_size: side of an image in pixels.
        num_classes: number of classes, without the null class.
        num_levels: number of pixel values, 2 or 256.
        tokenizer: how images become tokens; `gray256` has 256 levels, the others 2.
        embed_dim: width of the transformer.
        num_heads: attention heads of each block.
        depth: number of blocks.
        mlp_ratio: hidden width of a block's MLP, as a multiple of `embed_dim`.
        pos_embed: a learned vector for each patch, a rotation by row and column, or none.
        dropout: dropout probability.
        text_encoder_depth: blocks of the text encoder; 0 for no prompts.
        num_words: vocabulary of prompts.
        prompt_length: words of the longest prompt.

    Raises:
        ValueError: if the tokenizer does not fit the levels or the image, or heads do not divide the width.
    """

    likelihood: Literal["exact", "bound"] | None = "exact"

    def __init__(
        self,
        *,
        image_size: PositiveInt,
        num_classes: PositiveInt,
        num_levels: Literal[2, 256],
        tokenizer: TokenizerName = "patch4x4",
        embed_dim: PositiveInt = 128,
        num_heads: PositiveInt = 8,
        depth: PositiveInt = 2,
        mlp_ratio: PositiveFloat = 4.0,
        pos_embed: Literal["learned", "rope", "none"] = "learned",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        text_encoder_depth: NonNegativeInt = 0,
        num_words: PositiveInt = 1,
        prompt_length: PositiveInt = 1,
    ) -> None:
        super().__init__()
        self.tokenizer = PatchTokenizer(tokenizer, image_size=image_size, num_levels=num_levels)
        self.num_levels, self.image_size = num_levels, image_size
        self.num_classes = self.null_class = num_classes
        self.has_text_encoder = text_encoder_depth > 0
        seq_len, sub_tokens, vocab_size = self.tokenizer.seq_len, self.tokenizer.sub_tokens, self.tokenizer.vocab_size
        self.conditioning = Conditioning(
            num_classes=num_classes,
            embed_dim=embed_dim,
            text_encoder_depth=text_encoder_depth,
            num_words=num_words,
            prompt_length=prompt_length,
        )
        self.token_embed = nn.Embedding(sub_tokens * vocab_size, embed_dim)
        self.pos_embed = LearnedPosEmbed(length=seq_len, embed_dim=embed_dim) if pos_embed == "learned" else None
        self.blocks = nn.ModuleList(
            Block(embed_dim=embed_dim, num_heads=num_heads, mlp_ratio=mlp_ratio, dropout=dropout, causal=True)
            for _ in range(depth)
        )
        grid = (self.tokenizer.grid_size, self.tokenizer.grid_size)
        self.rope = AxialRoPE(head_dim=embed_dim // num_heads, grid=grid) if pos_embed == "rope" else None
        self.norm = nn.LayerNorm(embed_dim)
        if sub_tokens == 1:
            self.head = nn.Linear(embed_dim, vocab_size)
        else:
            self.patch_head = PatchHead(
                embed_dim=embed_dim,
                hidden_dim=2 * embed_dim,
                context_size=self.tokenizer.context_size,
                patch_pixels=self.tokenizer.patch_size**2,
                sub_tokens=sub_tokens,
                vocab_size=vocab_size,
            )
        init_weights(self)
        output = self.head if sub_tokens == 1 else self.patch_head.head
        nn.init.zeros_(output.weight)  # start with a uniform prediction

    def tokenize(self, image: Tensor) -> Tensor:
        """Map images (B, 1, height, width) to tokens (B, N, K)."""
        return self.tokenizer.tokenize(image)

    def detokenize(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, K) to images (B, 1, height, width)."""
        return self.tokenizer.detokenize(tokens)

    def forward(self, image: Tensor, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Return the logits (B, N, K, V) of each token given the earlier ones (teacher forcing).

        Args:
            image: images (B, 1, height, width).
            label: classes (B,), or the null class.
            prompt: word ids (B, L), padded with 0.
        """
        tokens = self.tokenize(image)  # (B, N, K)
        x = self.forward_features(tokens[:, :-1], self.conditioning(label, prompt))  # (B, N, D)
        if self.tokenizer.sub_tokens == 1:
            return self.head(x)[:, :, None]  # (B, N, 1, V)
        dtype = self.norm.weight.dtype
        context = self.patch_head.context(x, self.tokenizer.causal_context(image, dtype))  # (B, N, H)
        return self.patch_head(context, self.tokenizer.causal_prefix(tokens, dtype))  # (B, N, K, V)

    def forward_features(self, tokens: Tensor, cond: Tensor, caches: list[KVCache] | None = None) -> Tensor:
        """Encode the condition and the patches so far.

        Args:
            tokens: patches (B, T, K).
            cond: condition (B, D).
            caches: one cache for each block. An empty one takes the condition as the first position; afterwards
                `tokens` are the patches that follow the cached ones.

        Returns:
            Features (B, 1 + T, D) from which the patch after each position is predicted; (B, T, D) with filled caches.
        """
        start = caches[0].length if caches else 0
        x = cond[:, None]  # (B, 1, D)
        if tokens.shape[1]:
            offset = torch.arange(self.tokenizer.sub_tokens, device=tokens.device) * self.tokenizer.vocab_size
            embedded = self.token_embed(tokens + offset).sum(dim=2) + x  # (B, T, D)
            x = embedded if start else torch.cat([x, embedded], dim=1)  # (B, 1 + T, D)
        if self.pos_embed is not None:
            x = self.pos_embed(x, start)
        rope = self.rope.at(start, x.shape[1]) if self.rope is not None else None
        for index, block in enumerate(self.blocks):
            x = block(x, rope=rope, caches=(caches[index], None) if caches else None)
        return self.norm(x)

    def loss(self, image: Tensor, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Return -log p(image | condition) of each image (B,), in nats."""
        return -self.log_likelihood(image, label, prompt)

    def log_likelihood(self, image: Tensor, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Return log p(image | condition) of each image (B,), in nats."""
        logits = self(image, label, prompt)
        return -F.cross_entropy(logits.movedim(-1, 1), self.tokenize(image), reduction="none").sum(dim=(1, 2))

    def prompt_alignment_loss(self, label: Tensor, prompt: Tensor) -> Tensor:
        """Return the mean squared difference () between the embeddings of prompts (B, L) and of their classes (B,)."""
        return self.conditioning.alignment_loss(label, prompt)

    def sample_gumbel_noise(self, count: int, rng: torch.Generator) -> Tensor:
        """Sample the noise (count, N, K, V) that decides `count` images."""
        shape = (count, self.tokenizer.seq_len, self.tokenizer.sub_tokens, self.tokenizer.vocab_size)
        return gumbel(shape, rng).to(self.norm.weight)

    def sample(
        self,
        label: Tensor,
        rng: torch.Generator,
        *,
        prompt: Tensor | None = None,
        options: SamplingOptions = DEFAULT_SAMPLING,
    ) -> Iterator[Tensor]:
        """Sample images (B, 1, height, width) and yield them after each patch.

        All randomness is taken from `rng` before the first patch. The same tensor is yielded each time, with one patch
        more.
        """
        if options.temperature == 0:  # the likeliest token, whatever the noise
            noise = self.norm.weight.new_zeros(len(label), self.tokenizer.seq_len, self.tokenizer.sub_tokens, 1)
        else:
            noise = self.sample_gumbel_noise(len(label), rng)
        return self.decode(label, noise, prompt=prompt, options=options)

    @torch.inference_mode()
    def decode(
        self, label: Tensor, noise: Tensor, *, prompt: Tensor | None, options: SamplingOptions
    ) -> Iterator[Tensor]:
        """Yield the images that Gumbel noise (B, N, K, V) stands for, after each patch."""
        cond, guided = self.conditioning(label, prompt), options.guidance != 1
        if guided:
            cond = torch.cat([cond, self.conditioning(torch.full_like(label, self.null_class))])
        state = DecodingState(self, cond)
        for patch_noise in noise.unbind(1):
            for token_noise in patch_noise.unbind(1):
                logits = state.logits()  # (B, V), or (2B, V)
                if guided:
                    conditional, unconditional = logits.chunk(2)
                    logits = unconditional + options.guidance * (conditional - unconditional)
                if options.temperature not in (0, 1):
                    logits = logits / options.temperature
                token = gumbel_max_sample(logits, token_noise, top_k=options.top_k, top_p=options.top_p)  # (B,)
                state.append(token.repeat(2) if guided else token)
            yield state.image[: len(label)]

    @torch.inference_mode()
    def inpaint(
        self, image: Tensor, known: Tensor, label: Tensor, rng: torch.Generator, *, num_particles: int
    ) -> Tensor:
        """Sample the unknown pixels of an image by sequential Monte Carlo (see `smc_inpaint`).

        Args:
            image: one image (1, height, width).
            known: which of its pixels are known (height, width).
            label: the class of each completion (B,), or the null class.
            rng: source of randomness.
            num_particles: particles for each completion.

        Returns:
            Completed images (B, 1, height, width) that hold the known pixels.
        """
        allowed = self.tokenizer.allowed_tokens(image, known)  # (N · K, V)
        chunk_size = max(1, INPAINT_CACHE_BYTES // (num_particles * self.cache_bytes()))
        return torch.cat(
            [
                smc_inpaint(DecodingState(self, self.conditioning(chunk)), allowed, rng, num_particles=num_particles)
                for chunk in label.split(chunk_size)
            ]
        )

    def cache_bytes(self) -> int:
        """Return the size of one image's key-value caches."""
        return 2 * len(self.blocks) * self.tokenizer.seq_len * self.norm.weight.nbytes

    @torch.inference_mode()
    def cached_logits(self, image: Tensor, label: Tensor) -> Tensor:
        """Return the logits of `forward` (B, N, K, V), computed token by token with caches as in sampling."""
        state, logits = DecodingState(self, self.conditioning(label)), []
        for token in self.tokenize(image).flatten(1).unbind(1):
            logits.append(state.logits())
            state.append(token)
        return torch.stack(logits, dim=1).unflatten(1, (self.tokenizer.seq_len, self.tokenizer.sub_tokens))


class DecodingState:
    """Images that are being decoded, token after token, by a `PixelTransformer`.

    The transformer reads each patch once; its keys and values are cached. Within a patch, only the hidden state of
    `PatchHead` is updated.

    Args:
        model: the network.
        cond: condition of each image (B, D).
    """

    def __init__(self, model: PixelTransformer, cond: Tensor) -> None:
        tokenizer = model.tokenizer
        self.model, self.tokenizer, self.cond = model, tokenizer, cond
        self.caches = [KVCache(tokenizer.seq_len) for _ in model.blocks]
        self.image = cond.new_zeros(len(cond), 1, model.image_size, model.image_size)
        # the image scaled to [-1, 1] and padded; 0 where it is not decoded yet
        self.canvas = torch.zeros_like(tokenizer.pad_image(self.image, cond.dtype))
        self.last_patch = cond.new_zeros(len(cond), 0, tokenizer.sub_tokens, dtype=torch.long)  # empty at first
        self.sub_tokens: list[Tensor] = []  # (B,) each: those of the next patch, so far
        self.patch_index = 0  # index of the next patch
        self.hidden = cond.new_zeros(len(cond), 0)  # (B, H) of the next sub-token
        self.vocab_pixels = tokenizer.vocab_pixels(cond.device).to(cond.dtype)  # (V, U)
        if tokenizer.sub_tokens > 1:
            self.hidden_updates = model.patch_head.hidden_updates(self.vocab_pixels).unbind()  # (V, H) each
            self.mlp_weights = model.patch_head.mlp_weights()

    def logits(self) -> Tensor:
        """Return the logits (B, V) of the next token."""
        model = self.model
        if not self.sub_tokens:
            x = self.forward_features()  # (B, 1, D)
            if self.tokenizer.sub_tokens == 1:
                return model.head(x)[:, 0]
            window = self.tokenizer.causal_window(self.window().flatten(1)[:, None])  # (B, 1, context_size)
            context = model.patch_head.context(x, window)  # (B, 1, H)
            self.hidden = context[:, 0] + model.patch_head.pos_embed.weight[0]  # (B, H)
        return silu_mlp(self.hidden, *self.mlp_weights)

    def forward_features(self) -> Tensor:
        """Read the last patch, or the condition at first; return the features of the next patch (B, 1, D)."""
        return self.model.forward_features(self.last_patch, self.cond, self.caches)

    def append(self, token: Tensor) -> None:
        """Set the next token (B,); the last one of a patch completes it."""
        self.sub_tokens.append(token)
        if len(self.sub_tokens) < self.tokenizer.sub_tokens:
            self.hidden = self.hidden + self.hidden_updates[len(self.sub_tokens) - 1].index_select(0, token)
            return
        self.last_patch, self.sub_tokens = torch.stack(self.sub_tokens, dim=1)[:, None], []  # (B, 1, K)
        self.paint(self.tokenizer.unpatchify(self.vocab_pixels[self.last_patch]))
        self.patch_index += 1

    def paint(self, pixels: Tensor) -> None:
        """Write the pixels (B, patch_size, patch_size) of the next patch into image and canvas."""
        (row, col), side, margin = self.corner(), self.tokenizer.patch_size, self.tokenizer.margin
        self.image[:, 0, row : row + side, col : col + side] = pixels
        self.canvas[:, 0, margin + row : margin + row + side, margin + col : margin + col + side] = pixels * 2 - 1

    def corner(self) -> tuple[int, int]:
        """Return the row and column of the next patch's first pixel."""
        row, col = divmod(self.patch_index, self.tokenizer.grid_size)
        return row * self.tokenizer.patch_size, col * self.tokenizer.patch_size

    def window(self) -> Tensor:
        """Return the window (B, height, width) of the canvas that has the next patch in its last row."""
        (row, col), (height, width) = self.corner(), self.tokenizer.window_size
        return self.canvas[:, 0, row : row + height, col : col + width]

    def reorder(self, indices: Tensor) -> None:
        """Replace the images by those at `indices` (B',)."""
        self.cond, self.image, self.canvas = self.cond[indices], self.image[indices], self.canvas[indices]
        self.last_patch, self.hidden = self.last_patch[indices], self.hidden[indices]
        self.sub_tokens = [token[indices] for token in self.sub_tokens]
        for cache in self.caches:
            cache.reorder(indices)
