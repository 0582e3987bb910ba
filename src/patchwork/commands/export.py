"""Take trained models out of the lab: a page that runs them, or a folder of weights."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from annotated_types import MinLen

from patchwork.commands.app import format_help, name_arguments, print_help, run_command
from patchwork.core.errors import ConfigError
from patchwork.core.overrides import parse_call
from patchwork.core.types import PathStr

Form = Literal["lab", "weights"]


def command(args: list[str]) -> int:
    if print_help(args, lambda: format_help("patchwork export lab|weights run=… [out=…]", export)):
        return 0
    return run_command("export", lambda: export(**parse_call(export, name_form(args))))


def name_form(args: list[str]) -> list[str]:
    """Return arguments with `form=` before the first if it is one, and `run=` before paths."""
    forms = get_args(Form)
    if args and "=" not in args[0] and args[0] not in forms:
        raise ConfigError(
            f"{args[0]!r} is not allowed: use {' or '.join(f'patchwork export {form}' for form in forms)}"
        )
    return name_arguments(export, [f"form={args[0]}", *args[1:]] if args and args[0] in forms else args)


def export(
    *,
    run: PathStr | Annotated[list[PathStr], MinLen(1)],
    form: Form,
    out: PathStr | None = None,
) -> None:
    """Write a trained model so that it can be used elsewhere.

    `lab` is a page, one HTML file that needs no server and no network: one draws, and the model runs in the browser,
    with all that it computes at hand. `weights` is a folder: safetensors in half precision, the configuration, what was
    measured with this very file, and a card.

    Args:
        run: a run directory, or the name of weights that come with the package; for lab also [RUN_DIR,RUN_DIR,…].
        form: lab or weights, also without `form=`.
        out: the file or the directory to write; by default lab.html, or weights/ and the name of the run directory.

    Raises:
        PatchworkError: of the kind that says what is wrong.
    """
    import patchwork.core.fast_import  # noqa: F401
    from patchwork.runs.run import Run

    paths = [run] if isinstance(run, str) else run
    if form == "weights" and len(paths) > 1:
        raise ConfigError(f"form=weights takes one run, not {len(paths)}")
    runs = [Run.load(path) for path in paths]
    if form == "lab":
        from patchwork.export.lab import write_lab

        target = Path(out or "lab.html")
        if target.suffix != ".html":
            raise ConfigError(f"out={out} is not allowed: use a name that ends with .html")
        write_lab(runs, target)
        print(f"{target} ({target.stat().st_size / 1e6:.1f} MB): open it in a browser")
        return
    from patchwork.export.weights import write_weights

    target = Path(out or Path("weights", runs[0].run_dir.name))
    write_weights(runs[0], target, command=str(runs[0].manifest.get("command")))
    print(f"{target}: {', '.join(sorted(path.name for path in target.iterdir()))}")
