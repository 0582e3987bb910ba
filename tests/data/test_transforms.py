"""Augmentation: what each parameter does to an image, each image by itself; nothing is ever mirrored."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchwork.data.transforms import NUM_PARAMS, RandomAffineElastic

NAMES = ["x", "y", "rotation", "scale", "shear"]  # of the first parameters; then the nodes' x, and the nodes' y
AFFINE = {"translate": 3.0, "degrees": 25.0, "scale": 0.3, "shear": 15.0}
FULL = {**AFFINE, "elastic_std": 1.5}
RANGES = st.fixed_dictionaries(
    {
        "translate": st.floats(0, 28),
        "degrees": st.floats(0, 360),
        "scale": st.floats(0, 0.9),
        "shear": st.floats(0, 80),
        "elastic_std": st.floats(0, 10),
    }
)


def make_rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 4, size: int = 28, channels: int = 1) -> Tensor:
    return torch.rand(count, channels, size, size, generator=make_rng())


def params(count: int = 4, **values: float) -> Tensor:
    """Return parameters that are zero except those named."""
    zeros = torch.zeros(count, NUM_PARAMS)
    for name, value in values.items():
        zeros[:, NAMES.index(name)] = value
    return zeros


@given(RANGES, st.integers(1, 30), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_zero_parameters_are_the_identity(ranges: dict[str, float], size: int, channels: int) -> None:
    image = images(2, size, channels)
    torch.testing.assert_close(RandomAffineElastic(**ranges)(image, params(2)), image, rtol=0, atol=1e-4)


@given(st.integers(0, 2**32), st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_zero_ranges_are_the_identity_for_all_parameters(seed: int, size: int) -> None:
    image, sampled = images(size=size), RandomAffineElastic().sample_params(4, rng=make_rng(seed))
    torch.testing.assert_close(RandomAffineElastic()(image, sampled), image, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("x", "y"), [(1, 0), (0, 1), (-1, 0), (0, -1), (1, -1), (-2 / 3, 1 / 3)])
def test_translation_by_whole_pixels_shifts_pixels_and_pads_with_black(x: float, y: float) -> None:
    """A positive x shifts the image to the left, a positive y shifts it up."""
    image, across, down = images(), -round(3 * x), -round(3 * y)
    expected = torch.zeros_like(image)
    height, width = image.shape[-2:]
    expected[..., max(0, down) : height + min(0, down), max(0, across) : width + min(0, across)] = image[
        ..., max(0, -down) : height + min(0, -down), max(0, -across) : width + min(0, -across)
    ]
    torch.testing.assert_close(RandomAffineElastic(translate=3.0)(image, params(x=x, y=y)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [8, 27, 28])
@pytest.mark.parametrize(
    ("degrees", "rotation", "quarters"), [(90, 1, 1), (90, -1, -1), (180, 1, 2), (180, -1, 2), (180, 0.5, 1)]
)
def test_rotation_by_right_angles_moves_pixels(size: int, degrees: float, rotation: float, quarters: int) -> None:
    """A positive rotation is counter-clockwise, as of `torch.rot90`."""
    image = images(size=size)
    rotated = RandomAffineElastic(degrees=degrees)(image, params(rotation=rotation))
    torch.testing.assert_close(rotated, image.rot90(quarters, (2, 3)), rtol=0, atol=1e-4)


def test_batch_composition_does_not_change_an_image() -> None:
    augment, image = RandomAffineElastic(**FULL), images()
    sampled = augment.sample_params(4, rng=make_rng())
    together = augment(image, sampled)
    alone = torch.cat([augment(image[index : index + 1], sampled[index : index + 1]) for index in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(augment(image[order], sampled[order]), together[order], rtol=0, atol=1e-4)
    one_image = augment(image[:1].expand(4, -1, -1, -1), sampled)
    assert torch.pdist(one_image.flatten(1)).min() > 1  # each by its own parameters


def test_channels_are_transformed_alike() -> None:
    augment, image = RandomAffineElastic(**FULL), images(channels=3)
    sampled = augment.sample_params(4, rng=make_rng())
    each = torch.cat([augment(channel, sampled) for channel in image.split(1, dim=1)], dim=1)
    torch.testing.assert_close(augment(image, sampled), each, rtol=0, atol=1e-6)


def test_parameters_are_sampled_in_range_and_from_the_rng_only() -> None:
    augment = RandomAffineElastic(**FULL)
    sampled = augment.sample_params(500, 4, rng=make_rng(3))
    torch.manual_seed(1)
    assert torch.equal(sampled, augment.sample_params(500, 4, rng=make_rng(3)))
    assert sampled.shape == (500, 4, NUM_PARAMS)
    affine, nodes = sampled[..., :5], sampled[..., 5:]
    assert (affine.abs() <= 1).all()
    for part, std in [(affine, 3**-0.5), (nodes, 1.0)]:
        values = part.flatten(0, 1)
        assert values.mean(dim=0).abs().max() < 0.1
        assert values.std(dim=0).sub(std).abs().max() < 0.1
        assert len(values.unique(dim=0)) == len(values)


def blobs(size: int = 91, distance: float = 8.0) -> tuple[Tensor, Tensor]:
    """Return images (3, 1, size, size) of a smooth blob: centered, right of it, below it; and their centers (3, 2)."""
    centers = torch.tensor([[0.0, 0.0], [distance, 0.0], [0.0, distance]]) + size // 2  # (x, y)
    axis = torch.arange(size)
    across, down = ((axis - centers[:, i, None]) ** 2 / 8 for i in range(2))  # (3, size) each
    return (-down[:, :, None] - across[:, None, :]).exp()[:, None], centers


def centroids(image: Tensor) -> Tensor:
    """Return the centers of mass (n, 2) of images (n, 1, size, size)."""
    image = image[:, 0]
    axis = torch.arange(image.shape[-1], dtype=image.dtype)
    across, down = (image.sum(1) * axis).sum(1), (image.sum(2) * axis).sum(1)
    return torch.stack([across, down], dim=1) / image.sum(dim=(1, 2))[:, None]


def determinants(augment: RandomAffineElastic, sampled: Tensor) -> Tensor:
    """Return how much each of n maps scales areas at the center (n,), negative if it mirrors; three blobs show it."""
    image = blobs()[0].repeat(len(sampled), 1, 1, 1)
    moved = centroids(augment(image, sampled.repeat_interleave(3, dim=0))).view(-1, 3, 2)
    return torch.linalg.det(moved[:, 1:] - moved[:, :1]) / 64


@pytest.mark.parametrize("ranges", [AFFINE, {"translate": 4.0, "degrees": 180.0, "scale": 0.5, "shear": 45.0}])
def test_affine_maps_never_mirror_and_change_areas_by_the_scale(ranges: dict[str, float]) -> None:
    augment = RandomAffineElastic(**ranges)
    sampled = augment.sample_params(48, rng=make_rng())
    sampled[:32, :5] = torch.tensor(list(product([-1.0, 1.0], repeat=5)))  # the corners of the ranges
    scale = 1 + sampled[:, NAMES.index("scale")] * augment.scale
    torch.testing.assert_close(determinants(augment, sampled), scale**2, rtol=0.02, atol=0)


def test_elastic_displacement_does_not_mirror() -> None:
    augment = RandomAffineElastic(elastic_std=5.0)  # of an image of 91 pixels
    assert determinants(augment, augment.sample_params(32, rng=make_rng())).min() > 0.1


@pytest.mark.parametrize(("x", "y"), [(1, 0), (0, -1)])
def test_elastic_nodes_that_move_together_are_a_translation(x: int, y: int) -> None:
    image, elastic = images(), params()
    across, down = elastic[:, 5:].chunk(2, dim=1)
    across[:], down[:] = x, y
    expected = RandomAffineElastic(translate=2.0)(image, params(x=x, y=y))
    torch.testing.assert_close(RandomAffineElastic(elastic_std=2.0)(image, elastic), expected, rtol=0, atol=1e-4)


def test_an_elastic_node_moves_only_what_is_near_it() -> None:
    image, corner = images(), params()
    corner[:, 5] = 1.0  # the first node is at the top left
    changed = (RandomAffineElastic(elastic_std=2.0)(image, corner) - image).abs().amax(dim=(0, 1))
    assert changed[:3, :3].min() > 1e-3
    assert changed[14:].max() < 1e-4
    assert changed[:, 14:].max() < 1e-4


@pytest.mark.parametrize("shear", [1.0, -1.0])
def test_shear_is_horizontal(shear: float) -> None:
    image, centers = blobs()
    moved = centroids(RandomAffineElastic(shear=45.0)(image, params(3, shear=shear))) - centers
    expected = torch.tensor([[0.0, 0.0], [0.0, 0.0], [-8.0 * shear, 0.0]])
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_scale_of_one_or_more_is_rejected(scale: float) -> None:
    with pytest.raises(ValueError, match=rf"scale={scale}"):
        RandomAffineElastic(scale=scale)


@pytest.mark.parametrize("shear", [90.0, 135.0])
def test_shear_of_a_right_angle_or_more_is_rejected(shear: float) -> None:
    with pytest.raises(ValueError, match=rf"shear={shear}"):
        RandomAffineElastic(shear=shear)
