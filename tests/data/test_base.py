"""Seeds, samplers, loaders and shards: what every data module guarantees, whatever its batches hold."""

import pickle
import threading
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from data_helpers import SPLITS

from patchwork.core.errors import ConfigError
from patchwork.data.base import BaseDataModule, Batch, BatchIndex, BatchIndexSampler, Split, cyclic_shuffle
from patchwork.data.rng import derive_seed, make_rng


class CountingDataModule(BaseDataModule):
    """Each sample of a batch is (split, epoch, index, position in the batch, a random number)."""

    def make_batch(self, split: Split, batch_index: BatchIndex, shard: slice) -> Batch:
        noise = torch.rand(self.batch_size, generator=make_rng(split, self.seed, *batch_index))
        position = torch.arange(self.batch_size)
        head = torch.tensor([SPLITS.index(split), *batch_index])
        sample = torch.cat([head.expand(self.batch_size, 3), position[:, None], noise[:, None]], dim=1)
        return {"sample": sample[shard]}


def counting(**changes: int) -> CountingDataModule:
    sizes = {"batch_size": 4, "eval_batch_size": 6, "samples_per_epoch": 22, "val_size": 20, "test_size": 6}
    return CountingDataModule(**{"seed": 0, **sizes, **changes})


def trainer(rank: int = 0, world_size: int = 1, epoch: int = 0, ready: int = 0) -> SimpleNamespace:
    """Return a stand-in for a Trainer that has reached batch `ready` of `epoch`."""
    progress = SimpleNamespace(current=SimpleNamespace(processed=epoch))
    batches = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=ready)))
    loop = SimpleNamespace(epoch_progress=progress, epoch_loop=batches)
    return SimpleNamespace(global_rank=rank, world_size=world_size, fit_loop=loop, num_training_batches=5)


def attached(data: CountingDataModule, **options: int) -> CountingDataModule:
    data.trainer = trainer(**options)
    return data


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_different_keys_give_different_seeds() -> None:
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
    assert len({derive_seed(*key) for key in keys}) == len(set(keys))
    assert all(0 <= derive_seed(*key) < 2**64 for key in keys)


def test_rng_of_a_key_does_not_depend_on_the_global_random_state() -> None:
    first = torch.rand(5, generator=make_rng("batch", 0, 1, 2))
    torch.manual_seed(7)
    torch.rand(3)
    assert torch.equal(torch.rand(5, generator=make_rng("batch", 0, 1, 2)), first)
    assert not torch.equal(torch.rand(5, generator=make_rng("batch", 0, 1, 3)), first)


def test_cyclic_shuffle_holds_each_index_once_a_cycle_wherever_it_is_cut() -> None:
    whole = cyclic_shuffle(0, 0, 21, 7)
    assert [sorted(cycle) for cycle in whole.view(3, 7).tolist()] == [list(range(7))] * 3
    assert len({tuple(cycle) for cycle in whole.view(3, 7).tolist()}) == 3
    assert torch.equal(torch.cat([cyclic_shuffle(0, first, 3, 7) for first in range(0, 21, 3)]), whole)


# --- samplers --------------------------------------------------------------------------------------------------------


def test_batch_index_sampler_yields_every_batch_of_an_epoch_in_order() -> None:
    sampler = BatchIndexSampler(3)
    assert list(sampler) == [(0, 0), (0, 1), (0, 2)]
    sampler.set_epoch(5)
    assert list(sampler) == [(5, 0), (5, 1), (5, 2)]


@pytest.mark.parametrize("start_index", [0, 1, 3, 4])
def test_resumed_epoch_begins_at_its_start_index_and_the_next_is_whole(start_index: int) -> None:
    sampler = BatchIndexSampler(4, epoch=2, start_index=start_index)
    assert len(sampler) == 4
    assert list(sampler) == [(2, index) for index in range(start_index, 4)]
    sampler.set_epoch(3)
    assert list(sampler) == [(3, index) for index in range(4)]


# --- loaders ---------------------------------------------------------------------------------------------------------


def read(data: BaseDataModule, split: Split) -> list[list[float]]:
    loader = getattr(data, f"{split}_dataloader")()
    return [batch["sample"].tolist() for batch in loader]


@pytest.mark.parametrize(("split", "batches"), [("train", 5), ("val", 4), ("test", 1)])
def test_number_of_batches_follows_from_the_number_of_samples(split: Split, batches: int) -> None:
    """An incomplete training batch is dropped, one of evaluation is not."""
    data = counting()
    assert data.num_batches(split) == batches
    assert len(getattr(data, f"{split}_dataloader")()) == batches
    assert [batch[0][:3] for batch in read(data, split)] == [
        [SPLITS.index(split), 0, index] for index in range(batches)
    ]


def test_workers_do_not_change_batches() -> None:
    alone, helped = counting(), counting(num_workers=2)
    loaders = helped.train_dataloader(), alone.train_dataloader()
    for loader in loaders:
        loader.sampler.set_epoch(3)
    first, second = ([batch["sample"].tolist() for batch in loader] for loader in loaders)
    assert first == second
    assert first != read(alone, "train")


def test_overfit_one_batch_repeats_the_first_training_batch_only() -> None:
    data = counting(overfit_one_batch=True)
    assert read(data, "train") == [read(counting(), "train")[0]] * 5
    assert read(data, "val") == read(counting(), "val")


def test_repeated_batches_are_those_of_the_first_epoch() -> None:
    data = attached(counting())
    data.trainer.repeats_batches = True
    loader = data.train_dataloader()
    loader.sampler.set_epoch(3)
    assert [batch["sample"].tolist() for batch in loader] == read(counting(), "train")
    data.load_state_dict({"epoch": 3, "start_index": 2})
    validation = data.val_dataloader()  # of the same batches, also where a run is resumed within an epoch
    assert [batch["sample"].tolist() for batch in validation] == read(counting(), "train")
    assert read(data, "test") == read(counting(), "test")


def test_making_batches_leaves_the_global_random_state_alone() -> None:
    data = counting()
    torch.manual_seed(3)
    expected = data.make_batch("train", (0, 0), slice(None))["sample"]
    state = torch.get_rng_state()
    assert torch.equal(data.make_batch("train", (0, 0), slice(None))["sample"], expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("ready", "start_index"), [(0, 0), (2, 2), (4, 4), (5, 0)])
def test_data_module_resumes_at_the_batch_where_another_was_saved(ready: int, start_index: int) -> None:
    """At the end of an epoch, all of whose batches are done, the next one begins."""
    uninterrupted = counting().train_dataloader()
    uninterrupted.sampler.set_epoch(7)
    expected = [batch["sample"].tolist() for batch in uninterrupted]
    resumed = counting()
    resumed.load_state_dict(attached(counting(), epoch=7, ready=ready).state_dict())
    loader = resumed.train_dataloader()
    assert [batch["sample"].tolist() for batch in loader] == expected[start_index:]
    assert [batch["sample"].tolist() for batch in loader] == expected  # the next epoch is whole again


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_is_never_resumed_in_the_middle(split: Split) -> None:
    resumed = counting()
    resumed.load_state_dict(attached(counting(), epoch=7, ready=2).state_dict())
    assert read(resumed, split) == read(counting(), split)


def test_batch_dataset_is_pickled_without_the_trainer() -> None:
    """Where processes are spawned, as on macOS, a worker gets a copy, and a Trainer cannot be copied."""
    data = attached(counting())
    data.trainer.not_picklable = threading.Lock()
    batches = data.train_dataloader().dataset
    copied = pickle.loads(pickle.dumps(batches))
    assert torch.equal(copied[1, 2]["sample"], batches[1, 2]["sample"])


# --- shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_shards_of_all_ranks_interleave_to_the_batch(world_size: int) -> None:
    sizes = {"val_size": 24, "eval_batch_size": 8, "test_size": 8}
    whole = read(counting(**sizes), "train")
    ranks = [read(attached(counting(**sizes), rank=rank, world_size=world_size), "train") for rank in range(world_size)]
    for batch, *shards in zip(whole, *ranks, strict=True):
        assert {len(shard) for shard in shards} == {4 // world_size}
        assert [sample for samples in zip(*shards, strict=True) for sample in samples] == batch


@pytest.mark.parametrize("name", ["batch_size", "eval_batch_size", "val_size", "test_size"])
def test_batches_that_ranks_cannot_share_evenly_are_rejected(name: str) -> None:
    even = {"batch_size": 4, "eval_batch_size": 4, "val_size": 8, "test_size": 8}
    assert attached(counting(**even), rank=1, world_size=4).shard() == slice(1, None, 4)
    counting(**even).check_shards(4)
    with pytest.raises(ConfigError, match=rf"data\.{name}=6\b.*\b4\b"):
        counting(**{**even, name: 6}).check_shards(4)


@pytest.mark.parametrize("samples_per_epoch", [1, 3])
def test_epoch_without_a_batch_is_rejected(samples_per_epoch: int) -> None:
    with pytest.raises(ValueError, match=rf"samples_per_epoch={samples_per_epoch}\b.*batch_size=4\b"):
        counting(samples_per_epoch=samples_per_epoch)
