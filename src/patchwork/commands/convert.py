"""Convert MNIST from the forms in which it is passed around to the IDX files that are read here."""

from patchwork.commands.app import format_help, name_arguments, print_help, run_command
from patchwork.core.errors import ConfigError
from patchwork.core.overrides import parse_call
from patchwork.core.paths import expand_home
from patchwork.core.types import PathStr


def command(args: list[str]) -> int:
    if print_help(args, lambda: format_help("patchwork convert SOURCE out=…", convert)):
        return 0
    return run_command("convert", lambda: convert(**parse_call(convert, name_source(args))))


def name_source(args: list[str]) -> list[str]:
    """Return arguments with `source=` before the one without a key, which may be a path with `=` in it.

    Raises:
        ConfigError: if there are several sources, or an option, as `--out`.
    """
    named = [f"source={arg}" if is_source(arg) else arg for arg in args]
    sources = [arg.removeprefix("source=") for arg in named if arg.startswith("source=")]
    if len(sources) > 1:
        names = " and ".join(sources)
        raise ConfigError(f"{names} are {len(sources)} sources: name one, and the directory to write to as out=…")
    return name_arguments(convert, named)


def is_source(arg: str) -> bool:
    """Return whether an argument is the name of a source, not `key=value` or an option."""
    if arg.startswith(("-", "source=", "out=")):
        return False
    return "=" not in arg or expand_home(arg).exists()


def convert(*, source: PathStr, out: PathStr = "data/mnist") -> None:
    """Convert MNIST, or images in its format, to four IDX files, and say whether they are MNIST or Fashion-MNIST.

    The source may be a NumPy archive (mnist.npz of Keras), CSV files with a label and 784 pixels in each row,
    directories of pictures (training/3/7.png), Kaggle's or torchvision's IDX files, or a zip or tar archive of those.

    Args:
        source: the file or directory; its name alone is enough, as in `patchwork convert mnist.npz`.
        out: the directory to write to.

    Raises:
        ConfigError: if the directory holds IDX files, or is a file.
        DataError: if the source cannot be read, or is incomplete.
        ResourceError: if the files cannot be written.
    """
    import patchwork.core.fast_import  # noqa: F401
    from patchwork.data.sources.convert import read_form, write_idx_files
    from patchwork.data.sources.locate import idx_files
    from patchwork.data.sources.mnist import MNIST

    directory = expand_home(out)
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"out={out} is a file: name a directory to write to")
    if present := idx_files(MNIST.dataset, directory, max_depth=0):
        names = ", ".join(path.name for path in present.values())
        raise ConfigError(f"out={out} already holds {names}: name another directory")
    form = read_form(expand_home(source))
    for note in form.notes:
        print(note)
    dataset = write_idx_files(form.arrays, directory)
    print(f"{len(form.arrays[0]):,} training and {len(form.arrays[2]):,} test images in {directory}")
    if dataset is not None:
        print(f"they are {dataset.title}, byte for byte: dataset={dataset.name} dataset.root={directory}")
    else:
        print(
            "they are neither MNIST nor Fashion-MNIST in the official order: "
            f"dataset=mnist dataset.root={directory} dataset.verify=false"
        )
