"""Convert MNIST from the forms in which it is passed around to the IDX files that are read here."""

from pathlib import Path

from patchwork.commands.app import call_command
from patchwork.core.errors import ConfigError
from patchwork.core.types import PathStr


def command(args: list[str]) -> int:
    named = [f"source={arg}" if "=" not in arg and not arg.startswith("-") else arg for arg in args]
    return call_command("convert", convert, named)


def convert(*, source: PathStr, out: PathStr = "data/mnist") -> None:
    """Convert MNIST, or images in its format, to four IDX files, and say whether they are MNIST or Fashion-MNIST.

    The source may be a NumPy archive (mnist.npz of Keras), CSV files with a label and 784 pixels in each row,
    directories of pictures (training/3/7.png), Kaggle's or torchvision's IDX files, or a zip or tar archive of those.

    Args:
        source: the file or directory; its name alone is enough, as in `patchwork convert mnist.npz`.
        out: the directory to write to.

    Raises:
        ConfigError: if the directory holds IDX files.
        DataError: if the source cannot be read, or is incomplete.
        ResourceError: if the files cannot be written.
    """
    import patchwork.core.fast_import  # noqa: F401
    from patchwork.data.sources.convert import invert_if_white, read_form, write_idx_files
    from patchwork.data.sources.locate import idx_files
    from patchwork.data.sources.mnist import MNIST

    directory = Path(out).expanduser()
    if directory.exists() and (not directory.is_dir() or idx_files(MNIST.dataset, directory, max_depth=0)):
        raise ConfigError(f"out={out} holds such files, or is one: name another directory")
    arrays = read_form(Path(source).expanduser())
    if invert_if_white(arrays):
        print("the images are dark on white: inverted, as images here are light on dark")
    dataset = write_idx_files(arrays, directory)
    print(f"{len(arrays[0]):,} training and {len(arrays[2]):,} test images in {directory}")
    if dataset is not None:
        print(f"they are {dataset.title}, byte for byte: dataset={dataset.name} dataset.root={directory}")
    else:
        print(
            "they are neither MNIST nor Fashion-MNIST in the official order: "
            f"dataset=mnist dataset.root={directory} dataset.verify=false"
        )
