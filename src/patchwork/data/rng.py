"""Random generators by key. Data has no other randomness."""

import hashlib

import torch


def derive_seed(*key: str | int) -> int:
    """Return a seed that depends on `key` alone; keys that differ anywhere give unrelated seeds."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest())


def make_rng(*key: str | int) -> torch.Generator:
    """Return a random generator for `key`: its purpose, and the seed, epoch and batch it is for."""
    return torch.Generator().manual_seed(derive_seed(*key))
