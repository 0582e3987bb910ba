"""Resolvers of `conf/`: values that follow from what data and tasks are.

Each is defined beside what it describes and imported when it is called, so that `--help` need not import torch.
"""

from omegaconf import OmegaConf


def num_levels(tokenizer: str | None) -> int:
    from patchwork.models.patch_tokenizer import tokenizer_levels

    return tokenizer_levels(tokenizer)


def prompt_size(size: str) -> int:
    from patchwork.data.prompts import prompt_size

    return prompt_size(size)


def icon_logits(head: str, label: str) -> int:
    from patchwork.data.sources.icons import num_logits

    return num_logits(head, label)


def register() -> None:
    """Register all resolvers; those that exist are replaced."""
    OmegaConf.register_new_resolver("num_levels", num_levels, replace=True)
    OmegaConf.register_new_resolver("prompts", prompt_size, replace=True)
    OmegaConf.register_new_resolver("icon_classes", icon_logits, replace=True)
    OmegaConf.register_new_resolver("has_anchor", lambda task: task.rpartition(".")[2] == "Anchor", replace=True)


register()
