"""MNIST: handwritten digits.

Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST Database of Handwritten Digits" (1998).
"""

from patchwork.data.sources.base import DIGIT_NAMES, MNIST_MEAN, MNIST_STD
from patchwork.data.sources.idx import IdxDataset
from patchwork.data.sources.idx_source import IdxSource


class MNIST(IdxSource):
    """MNIST, or an error; see `IdxSource`."""

    dataset = IdxDataset(
        name="mnist",
        title="MNIST",
        variable="PATCHWORK_MNIST",
        digests={
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        parquet="ylecun/mnist",
    )
    mean, std = MNIST_MEAN, MNIST_STD
    class_names = DIGIT_NAMES
