"""Deformation of images: what each parameter does, seen in the pictures; no companion and no mirror."""

from itertools import product

import pytest
import torch
from torch import Tensor

from patchwork.data.deform import Deform

NAMES = ["x", "y", "rotation", "scale", "shear"]  # of the first parameters; then the nodes' x, and the nodes' y
AFFINE = {"shift": 3.0, "rotation": 25.0, "scale": 0.3, "shear": 15.0}
FULL = {**AFFINE, "elastic": 1.5}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def images(count: int = 4, size: int = 28) -> Tensor:
    return torch.rand(count, size, size)


def parameters(count: int = 4, **values: float) -> Tensor:
    """Give parameters that are zero but for those named."""
    found = torch.zeros_like(Deform().draw(count, generator=torch.Generator()))
    for name, value in values.items():
        found[:, NAMES.index(name)] = value
    return found


@pytest.mark.parametrize("ranges", [{}, FULL])
def test_parameters_of_zero_change_nothing(ranges: dict[str, float]) -> None:
    image = images()
    torch.testing.assert_close(Deform(**ranges)(image, parameters()), image, rtol=0, atol=1e-4)


def test_ranges_of_zero_change_nothing_whatever_is_drawn() -> None:
    image, drawn = images(), Deform().draw(4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Deform()(image, drawn), image, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("x", "y"), [(1, 0), (0, 1), (-1, 0), (0, -1), (1, -1), (-2 / 3, 1 / 3)])
def test_a_shift_by_whole_pixels_moves_pixels_and_leaves_black_behind(x: float, y: float) -> None:
    """A positive shift in x moves what is seen to the left, a positive one in y moves it up."""
    image, across, down = images(), -round(3 * x), -round(3 * y)
    expected = torch.zeros_like(image)
    height, width = image.shape[1:]
    expected[:, max(0, down) : height + min(0, down), max(0, across) : width + min(0, across)] = image[
        :, max(0, -down) : height + min(0, -down), max(0, -across) : width + min(0, -across)
    ]
    torch.testing.assert_close(Deform(shift=3.0)(image, parameters(x=x, y=y)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [8, 27, 28])
@pytest.mark.parametrize(
    ("degrees", "turn", "quarters"), [(90, 1, 1), (90, -1, -1), (180, 1, 2), (180, -1, 2), (180, 0.5, 1)]
)
def test_a_rotation_by_quarters_moves_pixels(size: int, degrees: float, turn: float, quarters: int) -> None:
    """A positive rotation is counter-clockwise, as `torch.rot90` turns."""
    image = images(size=size)
    found = Deform(rotation=degrees)(image, parameters(rotation=turn))
    torch.testing.assert_close(found, image.rot90(quarters, (1, 2)), rtol=0, atol=1e-4)


def test_each_image_is_transformed_by_itself() -> None:
    deform, image = Deform(**FULL), images()
    drawn = deform.draw(4, generator=torch.Generator().manual_seed(0))
    together = deform(image, drawn)
    alone = torch.cat([deform(image[index : index + 1], drawn[index : index + 1]) for index in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(deform(image[order], drawn[order]), together[order], rtol=0, atol=1e-4)
    same = deform(image[:1].expand(4, -1, -1), drawn)
    assert torch.pdist(same.flatten(1)).min() > 1  # each by its own parameters


def test_parameters_are_drawn_in_range_and_from_the_generator_alone() -> None:
    deform = Deform(**FULL)
    drawn = deform.draw(500, 4, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    assert torch.equal(drawn, deform.draw(500, 4, generator=torch.Generator().manual_seed(3)))
    affine, nodes = drawn[..., :5], drawn[..., 5:]
    assert (affine.abs() <= 1).all()
    for part, spread in [(affine, 3**-0.5), (nodes, 1.0)]:
        values = part.flatten(0, 1)
        assert values.mean(dim=0).abs().max() < 0.1
        assert values.std(dim=0).sub(spread).abs().max() < 0.1
        assert len(values.unique(dim=0)) == len(values)


def blobs(size: int = 91, reach: float = 8.0) -> tuple[Tensor, Tensor]:
    """Give images (3, size, size) of a smooth spot at the centre, right of it and below it, and their places (3, 2)."""
    places = torch.tensor([[0.0, 0.0], [reach, 0.0], [0.0, reach]]) + size // 2  # (x, y)
    axis = torch.arange(size)
    across, down = ((axis - places[:, i, None]) ** 2 / 8 for i in range(2))  # (3, size) each
    return (-down[:, :, None] - across[:, None, :]).exp(), places


def centroids(image: Tensor) -> Tensor:
    axis = torch.arange(image.shape[-1], dtype=image.dtype)
    across, down = (image.sum(1) * axis).sum(1), (image.sum(2) * axis).sum(1)
    return torch.stack([across, down], dim=1) / image.sum(dim=(1, 2))[:, None]


def determinant(deform: Deform, values: Tensor) -> float:
    """Follow three spots: how large the map is that moves them, negative if it mirrors them."""
    centre, right, below = centroids(deform(blobs()[0], values.expand(3, -1)))
    (a, b), (c, d) = (right - centre).tolist(), (below - centre).tolist()
    return (a * d - b * c) / 64


@pytest.mark.parametrize("ranges", [AFFINE, {"shift": 4.0, "rotation": 180.0, "scale": 0.5, "shear": 45.0}])
def test_nothing_is_ever_mirrored_and_sizes_change_by_the_scale(ranges: dict[str, float]) -> None:
    deform = Deform(**ranges)
    drawn = deform.draw(48, generator=torch.Generator().manual_seed(0))
    drawn[:32, :5] = torch.tensor(list(product([-1.0, 1.0], repeat=5)))  # the corners of what is allowed
    for values in drawn:
        scale = 1 + float(values[NAMES.index("scale")]) * deform.scale
        assert determinant(deform, values) == pytest.approx(scale**2, rel=0.02)


def test_bending_mirrors_nothing() -> None:
    deform = Deform(elastic=5.0)  # of an image of 91 pixels
    for values in deform.draw(32, generator=torch.Generator().manual_seed(0)):
        assert determinant(deform, values) > 0.1


@pytest.mark.parametrize(("x", "y"), [(1, 0), (0, -1)])
def test_nodes_that_move_together_are_a_shift(x: int, y: int) -> None:
    image, together = images(), parameters()
    across, down = together[:, 5:].chunk(2, dim=1)
    across[:], down[:] = x, y
    expected = Deform(shift=2.0)(image, parameters(x=x, y=y))
    torch.testing.assert_close(Deform(elastic=2.0)(image, together), expected, rtol=0, atol=1e-4)


def test_a_node_moves_what_is_near_it() -> None:
    image, corner = images(), parameters()
    corner[:, 5] = 1.0  # the first node is at the top left
    changed = (Deform(elastic=2.0)(image, corner) - image).abs().amax(dim=0)
    assert changed[:3, :3].min() > 1e-3
    assert changed[14:].max() < 1e-4
    assert changed[:, 14:].max() < 1e-4


@pytest.mark.parametrize("shear", [1.0, -1.0])
def test_shear_is_horizontal(shear: float) -> None:
    image, places = blobs()
    moved = centroids(Deform(shear=45.0)(image, parameters(3, shear=shear))) - places
    expected = torch.tensor([[0.0, 0.0], [0.0, 0.0], [-8.0 * shear, 0.0]])
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_a_scale_of_one_would_leave_nothing(scale: float) -> None:
    with pytest.raises(ValueError, match=rf"scale={scale}"):
        Deform(scale=scale)


@pytest.mark.parametrize("shear", [90.0, 135.0])
def test_a_shear_of_a_right_angle_would_leave_nothing(shear: float) -> None:
    with pytest.raises(ValueError, match=rf"shear={shear}"):
        Deform(shear=shear)
