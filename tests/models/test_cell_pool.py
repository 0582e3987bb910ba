"""One vector per cell: the mean of its own patches, projected, in reading order, for any grid."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from patchwork.models import CellPoolEncoderDecoder, EncoderDecoder

D = 8
grids = pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 5), (2, 2), (2, 3), (3, 1)])
sizes = pytest.mark.parametrize(("cell", "patch"), [(4, 2), (6, 2), (3, 3), (2, 1)])


def make_options(rows: int, cols: int, cell: int, patch: int, **options: Any) -> dict[str, Any]:
    grid = {"rows": rows, "cols": cols, "cell_size": cell, "patch_size": patch, "num_classes": 3, "stem": None}
    return {**grid, "embed_dim": D, "num_heads": 2, "encoder_depth": 0, **options}


def make_images(rows: int, cols: int, cell: int, count: int = 2) -> Tensor:
    return torch.randn(count, 1, rows * cell, cols * cell, dtype=torch.float64)


@grids
@sizes
@pytest.mark.parametrize("norm_first", [True, False])
@torch.no_grad()
def test_without_attention_a_cell_vector_depends_on_its_own_pixels_only(
    rows: int, cols: int, cell: int, patch: int, norm_first: bool
) -> None:
    model = CellPoolEncoderDecoder(**make_options(rows, cols, cell, patch, norm_first=norm_first)).double().eval()
    image = make_images(rows, cols, cell)
    memory = model.encode(image)
    assert memory.shape == (2, rows * cols, D)
    for index, (row, col) in enumerate(product(range(rows), range(cols))):
        other = image.clone()
        other[..., row * cell : (row + 1) * cell, col * cell : (col + 1) * cell] += torch.randn(cell, cell)
        changed = (model.encode(other) - memory).abs().amax(-1) > 1e-9  # (B, cells)
        assert changed[:, index].all()
        assert changed.sum() == len(image)


@grids
@sizes
@pytest.mark.parametrize("pos_embed", ["learned", "rope"])
@torch.no_grad()
def test_a_cell_vector_is_the_projected_mean_of_its_encoded_patches(
    rows: int, cols: int, cell: int, patch: int, pos_embed: str
) -> None:
    options = make_options(rows, cols, cell, patch, encoder_depth=2, pos_embed=pos_embed)
    model, patches = CellPoolEncoderDecoder(**options).double().eval(), EncoderDecoder(**options).double().eval()
    model.load_state_dict(patches.state_dict(), strict=False)
    image, side = make_images(rows, cols, cell), cell // patch
    grid = patches.encode(image).unflatten(1, (rows * side, cols * side))  # (B, patch rows, patch columns, D)
    memory = model.encode(image)
    for index, (row, col) in enumerate(product(range(rows), range(cols))):
        of_cell = grid[:, row * side : (row + 1) * side, col * side : (col + 1) * side]
        mean = model.cell_proj(of_cell.mean(dim=(1, 2)))
        torch.testing.assert_close(memory[:, index], mean, rtol=0, atol=1e-12)


@grids
@torch.no_grad()
def test_one_patch_per_cell_without_projection_equals_encoder_decoder(rows: int, cols: int) -> None:
    options = make_options(rows, cols, 4, 4, encoder_depth=2)
    model, plain = CellPoolEncoderDecoder(**options).double().eval(), EncoderDecoder(**options).double().eval()
    model.cell_proj = nn.Identity()
    plain.load_state_dict(model.state_dict())
    image = make_images(rows, cols, 4)
    torch.testing.assert_close(model.encode(image), plain.encode(image), rtol=0, atol=1e-12)
    assert torch.equal(model.generate(image), plain.generate(image))


@pytest.mark.parametrize(("cell", "patch"), [(6, 4), (6, 12), (28, 8), (3, 2)])
def test_patches_that_span_cells_are_rejected(cell: int, patch: int) -> None:
    options = make_options(2, 2, cell, patch)
    with pytest.raises(ValueError, match=rf"\b{patch}\b.*\b{cell}\b"):
        CellPoolEncoderDecoder(**options)
