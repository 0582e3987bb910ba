"""Check that a model has the properties it claims, and print a table; the exit code is 1 if a check fails."""

from typing import TYPE_CHECKING

from patchwork.commands.app import HELP, run_command
from patchwork.core.errors import ConfigError, PatchworkError
from patchwork.core.overrides import parse_value
from patchwork.core.types import PathStr

if TYPE_CHECKING:
    from patchwork.data import BaseDataModule
    from patchwork.tasks import Task

USAGE = """Check that a model has the properties it claims; the exit code is 1 if a check fails.

  patchwork audit [group=choice …] [key=value …]    a new model, untrained
  patchwork audit run=RUN_DIR                       the trained model of a run

Groups and keys are those of `patchwork train`."""
VERDICTS = {True: "pass", False: "FAIL", None: "skip"}


def command(args: list[str]) -> int:
    if HELP & {*args}:
        print(USAGE)
        return 0
    return run_command("audit", lambda: audit(args))


def audit(overrides: list[str]) -> None:
    """Check a new model that `overrides` configure, or the trained one of `run=RUN_DIR`.

    Raises:
        PatchworkError: if a check fails, or as raised by `Run.load` and `build`.
    """
    import patchwork.core.fast_import  # noqa: F401
    from patchwork.core.schema import check_config
    from patchwork.evaluation.audit.checks import run_checks
    from patchwork.evaluation.audit.size import model_size
    from patchwork.runs.build import build
    from patchwork.runs.compose import compose
    from patchwork.runs.fitting import check_fit
    from patchwork.runs.manifest import check_dataset
    from patchwork.runs.run import Run

    run_dir = find_run_dir(overrides)
    if run_dir is not None:
        run = Run.load(run_dir)
        task, data, title = run.task, run.data, f"{run_dir}, trained"
        data.prepare_data()
        check_dataset(run.manifest, data)
    else:
        config = compose(overrides)
        check_fit(config)
        check_config(config)
        data, task = build(config)
        title = f"{type(task).__name__} with {type(task.model).__name__}, untrained"
        data.prepare_data()
    print(f"{title}: {model_size(task, data)}")
    failed = []
    for name, result in run_checks(task, data, trained=run_dir is not None):
        print(f"  {VERDICTS[result.passed]}  {name:<22} {result.measured:<44} {result.expected}".rstrip(), flush=True)
        if result.passed is False:
            failed.append(name)
    if run_dir is not None:
        print_explanations(task, data)
    if failed:
        raise PatchworkError(f"{len(failed)} of {len(task.checks)} checks failed: {', '.join(failed)}")


def print_explanations(task: "Task", data: "BaseDataModule") -> None:
    """Plant answers in a known place, and print which explanations find it in this architecture."""
    from patchwork.analysis.result import NotApplicableError
    from patchwork.evaluation.audit.planted import judge_explanations, tells_the_truth

    try:
        found = judge_explanations(task, data)
    except NotApplicableError as error:
        print(f"explanations were not tried: {error}")
        return
    print("explanations, with this architecture trained on answers that were planted in a known place:")
    for name, (hits, total) in found.items():
        verdict = "finds it" if tells_the_truth(hits, total) else "does not"
        print(f"  {verdict:<8}  {name:<12} points to it in {hits} of {total} answers")


def find_run_dir(overrides: list[str]) -> str | None:
    """Return the value of `run=`, or None if there is none.

    Raises:
        ConfigError: if `run=` is combined with other overrides.
    """
    runs = [override for override in overrides if override.startswith("run=")]
    if not runs:
        return None
    for override in overrides:
        if override != runs[-1]:
            raise ConfigError(f"{override} cannot be combined with {runs[-1]}, which has its own configuration")
    run_dir: str = parse_value("run", runs[-1].removeprefix("run="), PathStr)
    return run_dir
