"""Evaluate a run on the test split again, or several runs as an ensemble; score a generative model."""

from pathlib import Path
from typing import Annotated

from annotated_types import Ge, MinLen
from pydantic import NonNegativeFloat, PositiveFloat

from patchwork.commands.app import call_command
from patchwork.commands.options import check_defaults
from patchwork.core.schema import choice_name
from patchwork.core.types import PathStr


def command(args: list[str]) -> int:
    return call_command("evaluate", evaluate, args)


def evaluate(
    *,
    run: PathStr | Annotated[list[PathStr], MinLen(1)],
    classifier: PathStr | None = None,
    num_samples: Annotated[int, Ge(10)] = 10_000,
    temperature: PositiveFloat = 1.0,
    guidance: NonNegativeFloat = 1.0,
) -> None:
    """Print the test metrics of a run and whether its manifest has the same, or those of several runs as an ensemble.

    A run of task=pixels also gets its scorecard, which is saved in the run directory.

    Args:
        run: a run directory, or [RUN_DIR,RUN_DIR,…] for an ensemble that averages the runs' probabilities; beside each
            of its metrics are the mean and the standard deviation of those of its members, the single runs.
        classifier: a run of task=classify for the classifier-based scores of a generative model.
        num_samples: number of images that a generative model generates to be scored.
        temperature: sampling temperature of these images; likelihoods do not depend on it.
        guidance: scale of classifier-free guidance of these images; above 1 they are more typical and less diverse.

    Raises:
        ConfigError: if options cannot be combined or used with these runs.
        DataError: if a run or its data cannot be read, or the data are not those of the run.
        ResourceError: if the scorecard cannot be written.
    """
    import patchwork.core.fast_import  # noqa: F401
    from patchwork.evaluation.ensemble import evaluate_ensemble
    from patchwork.evaluation.evaluate import evaluate_run
    from patchwork.evaluation.scorecard import Scorecard
    from patchwork.models.generator import SamplingOptions
    from patchwork.runs.run import Run
    from patchwork.tasks import Pixels

    generative_only = {
        "classifier": classifier,
        "num_samples": num_samples,
        "temperature": temperature,
        "guidance": guidance,
    }
    if not isinstance(run, str):
        check_defaults(evaluate, generative_only, "applies only to a single generative model")
        evaluate_ensemble([Path(run_dir) for run_dir in run])
        return
    loaded = Run.load(run)
    if not isinstance(loaded.task, Pixels):
        reason = f"applies only to a generative model, and run={run} is of task={choice_name(type(loaded.task))}"
        check_defaults(evaluate, generative_only, reason)
        evaluate_run(loaded)
        return
    scorecard = Scorecard(
        loaded,
        Run.load(classifier) if classifier else None,
        num_samples,
        SamplingOptions(temperature=temperature, guidance=guidance),
    )
    evaluate_run(loaded)
    scorecard.write()
