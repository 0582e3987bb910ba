"""Checks of the data."""

from torch import Tensor

from patchwork.data.base import BaseDataModule, Split
from patchwork.evaluation.audit.base import AuditContext, CheckResult


def split_leakage(context: AuditContext) -> CheckResult:
    """Count images that are in more than one split."""
    train, val, test = (unique_images(context.data, split) for split in ("train", "val", "test"))
    shared = len(train & val) + len(train & test) + len(val & test)
    return CheckResult(shared == 0, f"{shared} of {len(train | val | test)} images shared", "0: splits are disjoint")


def unique_images(data: BaseDataModule, split: Split) -> set[bytes]:
    """Return the contents of the distinct images of a split."""
    images: Tensor = data.source_images(split)
    return {bytes(pixels) for pixels in images.flatten(1).numpy()}
