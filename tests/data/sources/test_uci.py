"""The UCI digits: always the same, and like MNIST."""

import torch
from source_helpers import raises_one_line, same_source

from patchwork.core.errors import ConfigError
from patchwork.data.sources.uci import UCI


def test_uci_digits_never_change_and_look_like_mnist() -> None:
    source, again = UCI().load(), UCI().load()
    assert same_source(source, again)
    assert source.name == "uci"
    assert source.sha256 == "e5798831de07f2da97d5fe9e28a251722cec6074168e55420b58db28e20fd61b"
    assert [len(split.labels) for split in (source.train, source.val, source.test)] == [1257, 180, 360]
    for split in (source.train, source.val, source.test):
        assert split.images.shape == (len(split.labels), 1, 28, 28)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.labels.unique().tolist() == list(range(10))
        assert split.images.amax() == 255
        border = split.images.clone()
        border[..., 4:24, 4:24] = 0
        assert not border.any()  # an empty margin of 4 pixels
        assert (split.images.flatten(1).amax(1) > 200).all()
    assert len(torch.cat([source.train.images, source.val.images]).unique(dim=0)) > 1400


def test_uci_folds_partition_the_training_part() -> None:
    folds = [UCI(folds=5, fold=fold).load() for fold in range(5)]
    assert sorted(len(source.val.labels) for source in folds) == [287, 287, 287, 288, 288]
    images = torch.cat([source.val.images for source in folds]).flatten(1)
    default = UCI().load()
    assert torch.equal(
        images.unique(dim=0), torch.cat([default.train.images, default.val.images]).flatten(1).unique(dim=0)
    )


def test_validation_that_leaves_nothing_to_train_on_is_rejected() -> None:
    assert "dataset.validation=1437" in raises_one_line(ConfigError, UCI(validation=1437).load)
