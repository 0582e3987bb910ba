"""Keys, seeds, loaders and shards: what every stream of batches promises, whatever its batches hold."""

import pickle
import threading
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from patchwork.data.stream import Batch, Keys, Part, Stream, generator, seed_of
from patchwork.errors import ConfigError

PARTS: list[Part] = ["train", "val", "test"]


class Counting(Stream):
    """Each sample of a batch is (part, epoch, index, place, a number drawn for it)."""

    def make(self, part: Part, key: tuple[int, int], shard: slice) -> Batch:
        epoch, index = key
        drawn = torch.rand(self.batch_size, generator=generator(part, self.seed, epoch, index))
        place = torch.arange(self.batch_size)
        head = torch.tensor([PARTS.index(part), epoch, index])
        return {"sample": torch.cat([head.expand(self.batch_size, 3), place[:, None], drawn[:, None]], dim=1)[shard]}


def counting(**changes: int) -> Counting:
    sizes = {"batch_size": 4, "eval_batch_size": 6, "train_size": 22, "val_size": 20, "test_size": 6}
    return Counting(**{"seed": 0, **sizes, **changes})


def trainer(rank: int = 0, world: int = 1, epoch: int = 0, ready: int = 0) -> SimpleNamespace:
    """Stand in for a Trainer that has come as far as batch `ready` of `epoch`."""
    progress = SimpleNamespace(current=SimpleNamespace(processed=epoch))
    batches = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=ready)))
    loop = SimpleNamespace(epoch_progress=progress, epoch_loop=batches)
    return SimpleNamespace(global_rank=rank, world_size=world, fit_loop=loop, num_training_batches=5)


def attached(stream: Counting, **options: int) -> Counting:
    stream.trainer = trainer(**options)
    return stream


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_keys_that_differ_anywhere_give_other_seeds() -> None:
    keys = [(name, *numbers) for name in ("a", "b") for numbers in product(range(-1, 12), repeat=3)]
    keys += [
        ("a", 1, 23),
        ("a", 12, 3),
        ("a", 123),
        ("a",),
        (),
        ("a1", 2, 3),
        ("a", "1", 2, 3),
        ("a, 1", 2, 3),
        ("a", 10**12),
    ]
    assert len({seed_of(*key) for key in keys}) == len(set(keys))
    assert all(0 <= seed_of(*key) < 2**64 for key in keys)


def test_the_same_key_gives_the_same_numbers_whatever_happened_before() -> None:
    first = torch.rand(5, generator=generator("batch", 0, 1, 2))
    torch.manual_seed(7)
    torch.rand(3)
    assert torch.equal(torch.rand(5, generator=generator("batch", 0, 1, 2)), first)
    assert not torch.equal(torch.rand(5, generator=generator("batch", 0, 1, 3)), first)


# --- keys ------------------------------------------------------------------------------------------------------------


def test_keys_name_every_batch_of_an_epoch_in_order() -> None:
    keys = Keys(3)
    assert list(keys) == [(0, 0), (0, 1), (0, 2)]
    keys.set_epoch(5)
    assert list(keys) == [(5, 0), (5, 1), (5, 2)]


@pytest.mark.parametrize("first", [0, 1, 3, 4])
def test_a_resumed_epoch_goes_on_where_it_was_and_the_next_is_whole(first: int) -> None:
    keys = Keys(4, epoch=2, first=first)
    assert len(keys) == 4
    assert list(keys) == [(2, index) for index in range(first, 4)]
    keys.set_epoch(3)
    assert list(keys) == [(3, index) for index in range(4)]


# --- loaders ---------------------------------------------------------------------------------------------------------


def read(stream: Stream, part: Part) -> list[list[float]]:
    loader = getattr(stream, f"{part}_dataloader")()
    return [batch["sample"].tolist() for batch in loader]


@pytest.mark.parametrize(("part", "batches"), [("train", 5), ("val", 4), ("test", 1)])
def test_an_epoch_has_the_batches_that_its_size_says(part: Part, batches: int) -> None:
    """A training batch that would be incomplete is left out, one of evaluation is not."""
    stream = counting()
    assert stream.length(part) == batches
    assert len(getattr(stream, f"{part}_dataloader")()) == batches
    assert [batch[0][:3] for batch in read(stream, part)] == [[PARTS.index(part), 0, index] for index in range(batches)]


def test_workers_change_no_batch() -> None:
    alone, helped = counting(), counting(num_workers=2)
    assert read(helped, "train") == read(alone, "train")
    loaders = helped.train_dataloader(), alone.train_dataloader()
    for loader in loaders:
        loader.sampler.set_epoch(3)
    first, second = ([batch["sample"].tolist() for batch in loader] for loader in loaders)
    assert first == second
    assert first != read(alone, "train")


def test_reading_leaves_the_random_state_to_others() -> None:
    stream = counting()
    torch.manual_seed(3)
    expected = stream.make("train", (0, 0), slice(None))["sample"]
    state = torch.get_rng_state()
    assert torch.equal(stream.make("train", (0, 0), slice(None))["sample"], expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("ready", "first"), [(0, 0), (2, 2), (4, 4), (5, 0)])
def test_a_stream_goes_on_where_another_was_saved(ready: int, first: int) -> None:
    """At the end of an epoch, all of whose batches are done, the next one begins."""
    whole = counting().train_dataloader()
    whole.sampler.set_epoch(7)
    expected = [batch["sample"].tolist() for batch in whole]
    resumed = counting()
    resumed.load_state_dict(attached(counting(), epoch=7, ready=ready).state_dict())
    loader = resumed.train_dataloader()
    assert [batch["sample"].tolist() for batch in loader] == expected[first:]
    assert [batch["sample"].tolist() for batch in loader] == expected  # the next epoch is whole again


@pytest.mark.parametrize("part", ["val", "test"])
def test_evaluation_always_begins_at_the_beginning(part: Part) -> None:
    resumed = counting()
    resumed.load_state_dict(attached(counting(), epoch=7, ready=2).state_dict())
    assert read(resumed, part) == read(counting(), part)


def test_batches_can_be_sent_to_workers_that_share_no_memory() -> None:
    """Where processes are spawned, as on macOS, a worker gets a copy, and a Trainer cannot be copied."""
    stream = attached(counting())
    stream.trainer.what_cannot_be_copied = threading.Lock()
    batches = stream.train_dataloader().dataset
    copied = pickle.loads(pickle.dumps(batches))
    assert torch.equal(copied[1, 2]["sample"], batches[1, 2]["sample"])


# --- shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_shards_of_all_ranks_are_the_whole_batch(world: int) -> None:
    whole = read(counting(val_size=24, eval_batch_size=8, test_size=8), "train")
    ranks = [
        read(attached(counting(val_size=24, eval_batch_size=8, test_size=8), rank=rank, world=world), "train")
        for rank in range(world)
    ]
    for batch, *shards in zip(whole, *ranks, strict=True):
        assert {len(shard) for shard in shards} == {4 // world}
        assert [sample for together in zip(*shards, strict=True) for sample in together] == batch


@pytest.mark.parametrize("name", ["batch_size", "eval_batch_size", "val_size", "test_size"])
def test_batches_that_cannot_be_shared_evenly_are_refused(name: str) -> None:
    even = {"batch_size": 4, "eval_batch_size": 4, "val_size": 8, "test_size": 8}
    assert attached(counting(**even), rank=1, world=4).shard() == slice(1, None, 4)
    counting(**even).check_shards(4)
    with pytest.raises(ConfigError, match=rf"data\.{name}=6\b.*\b4\b"):
        counting(**{**even, name: 6}).check_shards(4)


@pytest.mark.parametrize("train_size", [1, 3])
def test_an_epoch_without_a_batch_is_refused(train_size: int) -> None:
    with pytest.raises(ValueError, match=rf"train_size={train_size}\b.*batch_size=4\b"):
        counting(train_size=train_size)
