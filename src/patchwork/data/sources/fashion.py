"""Fashion-MNIST: articles of clothing, in the format of MNIST.

H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms"
(2017), https://arxiv.org/abs/1708.07747
"""

from pathlib import Path

from patchwork.data.sources.idx import IdxDataset
from patchwork.data.sources.idx_source import IdxSource


class FashionMNIST(IdxSource):
    """Fashion-MNIST, or an error; see `IdxSource`."""

    dataset = IdxDataset(
        name="fashion",
        title="Fashion-MNIST",
        variable="PATCHWORK_FASHION",
        digests={
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        parquet="zalando-datasets/fashion_mnist",
        system_dir=Path("/usr/share/datasets/fashion-mnist"),  # of Debian's package dataset-fashion-mnist
    )
    mean, std = 0.2860, 0.3530
    class_names = (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
