"""Write the page of a run: figures of what its model does and why, in one file that needs no network."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from patchwork.commands.app import call_command
from patchwork.core.errors import ConfigError
from patchwork.core.suggest import closest
from patchwork.core.types import PathStr

if TYPE_CHECKING:
    from patchwork.report.sections import Section


AUDIT = "audit"  # the section of `patchwork audit`; it does not come from an analysis


def command(args: list[str]) -> int:
    return call_command("report", report, args)


def report(*, run: PathStr, figures: Literal["all", "none"] | str | list[str] = "all", replay: bool = False) -> None:
    """Write the page of a run: figures of what its model does and why, in one file that needs no network.

    The page is report.html in the run directory. The results that it draws are in its directory report: one .npz file
    for each figure, and their headline numbers in numbers.json.

    Args:
        run: a run directory.
        figures: all, none (which needs no weights), or the names of figures, as [confusion,calibration]; audit is one
            of them.
        replay: play the first validation samples through all epochs in the terminal, and write no page; for a run that
            was trained with watch=true.

    Raises:
        PatchworkError: of the kind that says what is wrong.
    """
    chosen, audited = choose_figures(figures)
    if replay and figures != "all":
        raise ConfigError(f"replay=true is not allowed with figures={figures}: it writes no page")
    import patchwork.core.fast_import  # noqa: F401
    from patchwork.report.build import write_page
    from patchwork.runs.manifest import read_manifest
    from patchwork.runs.page import describe_run, inputs_without_weights, make_inputs
    from patchwork.runs.run import Run
    from patchwork.runs.run_dir import locate_run, read_config, warn_of_other_path
    from patchwork.runs.weights import locate_weights_dir
    from patchwork.training.checkpoint_io import BEST

    if figures == "none" and locate_weights_dir(run) is None:
        run_dir = locate_run(run)
        config = read_config(run_dir)
        warn_of_other_path(run, run_dir, BEST)
        description = describe_run(run_dir, config, read_manifest(run_dir))
        print_page(write_page(description, inputs_without_weights(run_dir, config), []).path)
        return
    loaded = Run.load(run)
    if replay:
        from patchwork.runs.replay import play

        play(loaded)
        return
    description, inputs = describe_run(loaded.run_dir, loaded.config, loaded.manifest), make_inputs(loaded)
    if audited:
        from patchwork.evaluation.audit.section import audit_section

        audit = audit_section(str(loaded.run_dir), loaded.task, loaded.data)
        description = replace(description, extra=(audit,))
    path, left_out = write_page(description, inputs, chosen)
    print_page(path)
    if figures == "all" and left_out:
        print(f"not shown: {', '.join(left_out)}; the end of the page says why")
    elif figures != "all":
        for name, reason in left_out.items():
            print(f"not shown: {name}: {reason}")
        print("the page has these figures alone: figures=all writes it with every one")


def print_page(path: Path) -> None:
    print(f"{path} ({path.stat().st_size / 1e3:,.0f} KB)")


def choose_figures(figures: str | list[str]) -> "tuple[list[Section], bool]":
    """Return the figures of these names, in the order of the page, and whether the audit is one of them.

    Raises:
        ConfigError: if there is no such figure.
    """
    from patchwork.report.sections import SECTIONS

    names = [figures] if isinstance(figures, str) else figures
    if names == ["all"]:
        return [*SECTIONS], True
    if names == ["none"]:
        return [], False
    known = [*(section.name for section in SECTIONS), AUDIT]
    for name in names:
        if name not in known:
            meant = closest(name, known)
            hint = f" (did you mean {meant}?)" if meant else ""
            raise ConfigError(f"figures={name} is not allowed{hint}: use all, none, or a list of {', '.join(known)}")
    return [section for section in SECTIONS if section.name in names], AUDIT in names
