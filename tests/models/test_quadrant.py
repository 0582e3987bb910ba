"""One vector per cell: the mean of its own patches, mapped linearly, in reading order, for any grid."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from patchwork.models import EncoderDecoder, Quadrant

D = 8
grids = pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 5), (2, 2), (2, 3), (3, 1)])
sizes = pytest.mark.parametrize(("cell", "patch"), [(4, 2), (6, 2), (3, 3), (2, 1)])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def options(rows: int, cols: int, cell: int, patch: int, **changes: Any) -> dict[str, Any]:
    plain = {"rows": rows, "cols": cols, "cell_size": cell, "patch_size": patch, "num_classes": 3, "stem": []}
    return {**plain, "embed_dim": D, "num_heads": 2, "encoder_depth": 0, **changes}


def images(rows: int, cols: int, cell: int, count: int = 2) -> Tensor:
    return torch.randn(count, 1, rows * cell, cols * cell, dtype=torch.float64)


@grids
@sizes
@pytest.mark.parametrize("norm_first", [True, False])
@torch.no_grad()
def test_before_any_mixing_a_cells_vector_sees_its_own_pixels_alone(
    rows: int, cols: int, cell: int, patch: int, norm_first: bool
) -> None:
    model = Quadrant(**options(rows, cols, cell, patch, norm_first=norm_first)).double().eval()
    image = images(rows, cols, cell)
    before = model.encode(image)
    assert before.shape == (2, rows * cols, D)
    for index, (row, col) in enumerate(product(range(rows), range(cols))):
        other = image.clone()
        other[..., row * cell : (row + 1) * cell, col * cell : (col + 1) * cell] += torch.randn(cell, cell)
        changed = (model.encode(other) - before).abs().amax(-1) > 1e-9  # (B, cells)
        assert changed[:, index].all()
        assert changed.sum() == len(image)


@grids
@sizes
@pytest.mark.parametrize("positions", ["learned", "rotary"])
@torch.no_grad()
def test_a_cells_vector_is_the_mean_of_its_encoded_patches(
    rows: int, cols: int, cell: int, patch: int, positions: str
) -> None:
    same = options(rows, cols, cell, patch, encoder_depth=2, positions=positions)
    model, patches = Quadrant(**same).double().eval(), EncoderDecoder(**same).double().eval()
    model.load_state_dict(patches.state_dict(), strict=False)
    image, side = images(rows, cols, cell), cell // patch
    grid = patches.encode(image).unflatten(1, (rows * side, cols * side))  # (B, patch rows, patch columns, D)
    for index, (row, col) in enumerate(product(range(rows), range(cols))):
        own = grid[:, row * side : (row + 1) * side, col * side : (col + 1) * side]
        mean = model.cell_proj(own.mean(dim=(1, 2)))
        torch.testing.assert_close(model.encode(image)[:, index], mean, rtol=0, atol=1e-12)


@grids
@torch.no_grad()
def test_with_one_patch_per_cell_and_no_projection_it_is_an_encoder_decoder(rows: int, cols: int) -> None:
    same = options(rows, cols, 4, 4, encoder_depth=2)
    model, plain = Quadrant(**same).double().eval(), EncoderDecoder(**same).double().eval()
    model.cell_proj = nn.Identity()
    plain.load_state_dict(model.state_dict())
    image = images(rows, cols, 4)
    torch.testing.assert_close(model.encode(image), plain.encode(image), rtol=0, atol=1e-12)
    assert torch.equal(model.generate(image), plain.generate(image))


@pytest.mark.parametrize(("cell", "patch"), [(6, 4), (6, 12), (28, 8), (3, 2)])
def test_a_patch_that_spans_cells_is_refused(cell: int, patch: int) -> None:
    size = options(2, 2, cell, patch)
    with pytest.raises(ValueError, match=rf"\b{patch}\b.*\b{cell}\b"):
        Quadrant(**size)
