"""Find the key, choice or command that a wrong one was meant to be."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

CUTOFF = 0.7  # similarity of two words, of which 1 is equality
MIN_REST = 0.5  # of what is left of them without the words that they share
EVERYWHERE = ("default", "none")  # choices that many groups have: in another group they are not what was meant
SYNONYMS = {  # names from other tools, which are not similar to the ones here
    "amp": "precision",
    "arch": "model",
    "bs": "data.batch_size",
    "batchsize": "data.batch_size",
    "clip_grad": "gradient_clip_val",
    "default_root_dir": "run_dir",
    "device": "accelerator",
    "dim": "embed_dim",
    "dir": "run_dir",
    "epoch": "max_epochs",
    "epochs": "max_epochs",
    "exp_dir": "run_dir",
    "folder": "run_dir",
    "fp16": "precision",
    "gpu": "trainer.devices",
    "gpus": "trainer.devices",
    "grad_accum": "accumulate_grad_batches",
    "grad_clip": "gradient_clip_val",
    "hidden_dim": "embed_dim",
    "hidden_size": "embed_dim",
    "layers": "depth",
    "learning_rate": "optimizer.lr",
    "log_dir": "run_dir",
    "logdir": "run_dir",
    "n_epochs": "max_epochs",
    "name": "run_dir",
    "num_epochs": "max_epochs",
    "num_layers": "depth",
    "num_train_epochs": "max_epochs",
    "num_trials": "n_trials",
    "num_workers": "data.num_workers",
    "output_dir": "run_dir",
    "random_seed": "seed",
    "random_state": "seed",
    "run_name": "run_dir",
    "save_dir": "run_dir",
    "step_size": "optimizer.lr",
    "steps": "max_steps",
    "trials": "n_trials",
    "wd": "weight_decay",
    "width": "embed_dim",
    "workers": "num_workers",
}
CHOICE_SYNONYMS = {
    "digits": "uci",
    "fashionmnist": "fashion",
    "fmnist": "fashion",
    "ddp_sim": "ddp",
    "gpu": "cuda",
    "gpus": "cuda",
    "tb": "tensorboard",
    "transformer": "vit",
    "wb": "wandb",
}


def normalize(name: str) -> str:
    return name.lower().lstrip("-+~").replace("-", "_").replace("/", ".")


def last_name(path: str) -> str:
    return path.rpartition(".")[2]


def closest(name: str, known: Iterable[str], *, cutoff: float = CUTOFF) -> str | None:
    """Return the known name that is most similar to another one, or None if none is similar."""
    by_normal_name = {normalize(candidate): candidate for candidate in known}
    name = normalize(name)
    matches = difflib.get_close_matches(name, by_normal_name, n=3, cutoff=cutoff)
    return next((by_normal_name[match] for match in matches if differs_by_slips(name, match)), None)


def differs_by_slips(name: str, other: str) -> bool:
    """Return whether names are similar in what is left without the words that both have, as `paper_` in two choices."""
    words, other_words = re.split(r"[_.]", name), re.split(r"[_.]", other)
    shared = {*words} & {*other_words}
    rest = "_".join(word for word in words if word not in shared)
    other_rest = "_".join(word for word in other_words if word not in shared)
    if not rest or not other_rest:
        return True
    return difflib.SequenceMatcher(None, rest, other_rest).ratio() >= MIN_REST


def closest_choice(group: str, choice: str, choices: Mapping[str, Sequence[str]]) -> tuple[str, str] | None:
    """Return the group and the choice that are most likely meant by a choice that a group does not have.

    Args:
        group: The group.
        choice: The choice.
        choices: The choices of each group.
    """
    if (meant := CHOICE_SYNONYMS.get(normalize(choice))) in choices[group]:
        return group, str(meant)
    if found := closest(choice, choices[group], cutoff=0.9):
        return group, found
    for name in (choice, meant):
        if name not in EVERYWHERE and (elsewhere := next((other for other in choices if name in choices[other]), None)):
            return elsewhere, str(name)
    if found := closest(choice, choices[group]):
        return group, found
    for other, names in choices.items():
        if found := closest(choice, (name for name in names if name not in EVERYWHERE), cutoff=0.8):
            return other, found
    return None


def closest_key(path: str, known: Sequence[str]) -> str | None:
    """Return the key that is most likely meant by a dotted path that does not exist.

    Args:
        path: The path.
        known: Dotted paths of all keys, the preferred ones of equal last names first.
    """
    path = normalize(path)
    known = [key for key in known if not path.startswith(f"{key}.")]
    parent, _, name = path.rpartition(".")
    siblings = [key for key in known if normalize(key.rpartition(".")[0]) == parent]
    for candidates in (siblings, known) if parent else (known,):
        if found := same_name(name, candidates) or synonym(name, candidates):
            return found
        if candidates is siblings or not parent:
            near = [key for key in known if "." not in key] if not parent else siblings
            found = closest_last_name(name, near) or word_match(name, candidates)
            if found:
                return found
    whole = None if siblings else closest(path, known, cutoff=0.8)  # what siblings share with it says nothing
    return whole or closest_last_name(name, known)


def same_name(name: str, known: Iterable[str]) -> str | None:
    return next((key for key in known if normalize(last_name(key)) == name), None)


def synonym(name: str, known: Iterable[str]) -> str | None:
    meant = SYNONYMS.get(name, "")
    return next((key for key in known if meant and f".{key}".endswith(f".{meant}")), None)


def word_match(name: str, known: Iterable[str]) -> str | None:
    """Return the key one of whose words, which underscores join, is the name."""
    return next((key for key in known if name in normalize(last_name(key)).split("_")), None)


def closest_last_name(name: str, known: Iterable[str]) -> str | None:
    by_name: dict[str, str] = {}
    for key in known:
        by_name.setdefault(last_name(key), key)
    found = closest(name, by_name)
    return by_name[found] if found else None


def key_paths(values: Mapping[str, object]) -> list[str]:
    """Return the dotted paths of all keys of a configuration; those that refer to others are the last.

    Args:
        values: The configuration as plain values, interpolations unresolved.
    """
    own: list[str] = []
    links: list[str] = []
    queue: list[tuple[str, Mapping[str, object]]] = [("", values)]
    while queue:
        prefix, node = queue.pop(0)
        for name, value in node.items():
            if name.startswith("_"):
                continue
            path = f"{prefix}{name}"
            (links if isinstance(value, str) and "${" in value else own).append(path)
            if isinstance(value, Mapping):
                queue.append((f"{path}.", value))
    return own + links
