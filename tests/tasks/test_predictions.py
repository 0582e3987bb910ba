"""The table of predictions: rows in order, padding, correctness and probability."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchwork.tasks.predictions import Predictions


def table(count: int, width: int = 3, num_images: int = 2, seed: int = 0) -> Predictions:
    rng = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(count, width, generator=rng).log_softmax(dim=1)
    return Predictions(
        index=torch.arange(count),
        image_ids=torch.randint(100, (count, num_images), generator=rng),
        target=torch.randint(width, (count,), generator=rng),
        prediction=log_probs.argmax(dim=1),
        log_probs=log_probs,
    )


def rows(predictions: Predictions, start: int, stop: int) -> Predictions:
    return Predictions.from_tensors({name: values[start:stop] for name, values in predictions.tensors().items()})


@given(cuts=st.lists(st.integers(0, 12), max_size=4))
@settings(deadline=None, max_examples=30)
def test_concatenated_batches_are_the_whole_table(cuts: list[int]) -> None:
    whole = table(12)
    edges = [0, *sorted(cuts), 12]
    parts = [rows(whole, start, stop) for start, stop in pairwise(edges) if start < stop]
    joined = Predictions.concat(parts).tensors()
    assert joined.keys() == whole.tensors().keys()
    assert all(torch.equal(values, joined[name]) for name, values in whole.tensors().items())


def test_narrow_batches_are_padded_with_impossible_answers() -> None:
    narrow, wide = table(2, width=3, num_images=1), table(1, width=5, num_images=4, seed=1)
    joined = Predictions.concat([narrow, wide])
    assert joined.log_probs.shape == (3, 5)
    assert joined.image_ids[:2, 1:].eq(-1).all()
    torch.testing.assert_close(joined.log_probs.exp().sum(dim=1), torch.ones(3))
    torch.testing.assert_close(joined.probability[:2], narrow.probability)


def test_a_field_that_one_batch_lacks_is_none() -> None:
    without = Predictions.from_tensors({name: v for name, v in table(2).tensors().items() if name != "log_probs"})
    joined = Predictions.concat([table(2), without])
    assert joined.log_probs is None
    assert joined.probability is None
    assert len(joined) == 4


def test_sequences_are_correct_in_all_positions_and_as_probable_as_their_tokens() -> None:
    log_probs = torch.tensor([[[0.5, 0.5], [0.2, 0.8]], [[0.9, 0.1], [1.0, 0.0]]]).log()  # (B, T, V)
    predictions = Predictions(
        index=torch.arange(2),
        image_ids=torch.zeros(2, 1, dtype=torch.long),
        target=torch.tensor([[0, 1], [0, 1]]),
        prediction=torch.tensor([[0, 1], [0, 0]]),
        log_probs=log_probs,
    )
    assert predictions.correct.tolist() == [True, False]
    assert predictions.probability.tolist() == pytest.approx([0.4, 0.9])


def test_numbers_are_not_compared_with_classes() -> None:
    label, log_likelihood = torch.tensor([1, 2]), torch.tensor([-3.0, -4.0])
    predictions = Predictions(torch.arange(2), torch.zeros(2, 1), label, log_likelihood)
    assert predictions.correct is None
    assert Predictions(torch.arange(2), torch.zeros(2, 1), None, label).correct is None
