"""Images as sequences of discrete tokens, and the pixels that a causal model may see of them.

An image is cut into square patches in raster order, and a patch into one or several square sub-tokens, again in raster
order. A sub-token is one of the num_levels ** (its pixels) ways to set its pixels.

Shapes: B batch, N patches of an image, K sub-tokens of a patch, V vocabulary, U pixels of a sub-token, P of a patch.
"""

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

TokenizerName = Literal["gray256", "binary", "patch2x2", "patch4x4"]
SIZES: dict[str, tuple[int, int]] = {  # side of a patch and of a sub-token, in pixels
    "gray256": (1, 1),
    "binary": (1, 1),
    "patch2x2": (2, 2),
    "patch4x4": (4, 2),
}
CONTEXT_RADIUS = 2  # patches: how far around a patch `causal_context` reaches


def tokenizer_levels(name: str | None) -> int:
    """Return the number of pixel levels that a tokenizer takes; 2 for a model without a tokenizer."""
    return 256 if name == "gray256" else 2


class PatchTokenizer:
    """Convert square images of `num_levels` pixel values to tokens and back.

    Args:
        name: how images become tokens; `gray256` takes 256 levels, the others 2.
        image_size: side of an image in pixels.
        num_levels: number of pixel values.

    Raises:
        ValueError: if the tokenizer does not fit the number of levels or does not divide the image.
    """

    def __init__(self, name: TokenizerName, *, image_size: int, num_levels: int) -> None:
        if num_levels != tokenizer_levels(name):
            raise ValueError(f"num_levels={num_levels} does not fit tokenizer={name}: use {tokenizer_levels(name)}")
        self.patch_size, self.sub_token_size = SIZES[name]
        if image_size % self.patch_size:
            raise ValueError(f"tokenizer={name} does not divide an image of {image_size} pixels")
        self.num_levels = num_levels
        self.grid_size = image_size // self.patch_size  # patches in a row
        self.seq_len = self.grid_size**2  # N
        self.sub_grid_size = self.patch_size // self.sub_token_size  # sub-tokens in a row of a patch
        self.sub_tokens = self.sub_grid_size**2  # K
        self.vocab_size = num_levels**self.sub_token_size**2  # V
        self.margin = CONTEXT_RADIUS * self.patch_size  # pixels
        self.window_size = (self.margin + self.patch_size, 2 * self.margin + self.patch_size)  # height, width
        self.context_size = self.margin * (self.window_size[1] + self.patch_size)  # pixels of a causal window

    def tokenize(self, image: Tensor) -> Tensor:
        """Map images (B, 1, height, width) to tokens (B, N, K)."""
        return (self.split_pixels(image).long() * self.place_values(image.device)).sum(dim=-1)

    def detokenize(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, K) to images (B, 1, height, width): the inverse of `tokenize`."""
        return rearrange(
            self.token_pixels(tokens),
            "b (h w) (p q) (k l) -> b 1 (h p k) (w q l)",
            h=self.grid_size,
            p=self.sub_grid_size,
            k=self.sub_token_size,
        )

    def split_pixels(self, image: Tensor) -> Tensor:
        """Cut images (B, 1, height, width) into the pixels (B, N, K, U) of their sub-tokens."""
        return rearrange(
            image,
            "b 1 (h p k) (w q l) -> b (h w) (p q) (k l)",
            p=self.sub_grid_size,
            q=self.sub_grid_size,
            k=self.sub_token_size,
            l=self.sub_token_size,
        )

    def token_pixels(self, tokens: Tensor) -> Tensor:
        """Map tokens (…) to the values of their pixels (…, U)."""
        return tokens[..., None] // self.place_values(tokens.device) % self.num_levels

    def vocab_pixels(self, device: torch.device) -> Tensor:
        """Return the pixels (V, U) of every token."""
        return self.token_pixels(torch.arange(self.vocab_size, device=device))

    def place_values(self, device: torch.device) -> Tensor:
        """Return the place value of each pixel (U,): a token is a number in base `num_levels`."""
        return self.num_levels ** torch.arange(self.sub_token_size**2, device=device)

    def unpatchify(self, pixels: Tensor) -> Tensor:
        """Arrange the pixels (B, 1, K, U) of one patch in two dimensions (B, patch_size, patch_size)."""
        side, unit = self.sub_grid_size, self.sub_token_size  # einops would slow down sampling
        return pixels.view(-1, side, side, unit, unit).transpose(2, 3).reshape(-1, self.patch_size, self.patch_size)

    def allowed_tokens(self, image: Tensor, known: Tensor) -> Tensor:
        """Return which tokens agree with the known pixels of an image, at each position (N · K, V).

        Args:
            image: one image (1, height, width).
            known: which pixels are known (height, width).
        """
        pixels = self.split_pixels(image[None]).flatten(1, 2)[0]  # (N · K, U)
        fixed = self.split_pixels(known[None, None].to(image)).flatten(1, 2)[0].bool()  # (N · K, U)
        vocab = self.vocab_pixels(image.device)  # (V, U)
        return ((vocab == pixels[:, None]) | ~fixed[:, None]).all(dim=-1)

    def pad_image(self, image: Tensor, dtype: torch.dtype) -> Tensor:
        """Scale pixels 0 and 1 to -1 and 1, and pad images with 0 on all sides but the bottom."""
        return F.pad(image.to(dtype) * 2 - 1, (self.margin, self.margin, self.margin, 0))

    def causal_context(self, image: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the pixels (B, N, context_size) of the patches around each that precede it; 0 beyond the border."""
        windows = F.unfold(self.pad_image(image, dtype), self.window_size, stride=self.patch_size).mT
        return self.causal_window(windows)

    def causal_window(self, window: Tensor) -> Tensor:
        """Select from windows (B, T, height · width) the pixels that precede their patch (B, T, context_size).

        The patch is in the middle of the window's last row: the rows above it and the pixels to its left precede it.
        """
        window = window.unflatten(2, self.window_size)
        above, left = window[:, :, : self.margin], window[:, :, self.margin :, : self.margin]
        return torch.cat([above.flatten(2), left.flatten(2)], dim=2)

    def causal_prefix(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """Return for each sub-token of patches (B, T, K) the pixels (B, T, K, P) of earlier ones; 0 for the rest."""
        pixels = self.token_pixels(tokens).to(dtype) * 2 - 1  # (B, T, K, U)
        earlier = torch.ones(self.sub_tokens, self.sub_tokens, device=tokens.device).tril(-1)
        return (pixels[:, :, None] * earlier[..., None]).flatten(3)
