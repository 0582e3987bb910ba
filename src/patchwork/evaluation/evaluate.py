"""Measure a finished run on its test split again."""

from patchwork.runs.report import num_tested
from patchwork.runs.run import Run


def evaluate_run(run: Run) -> None:
    """Print the test metrics of a run, each with whether it equals the one in the run's manifest, and in plain words.

    Raises:
        DataError: if the data set found now is not the one that the run was trained on.
    """
    recorded = run.manifest.get("metrics", {})
    metrics = run.evaluate()
    for name, value in metrics.items():
        if name not in recorded:
            note = ""
        elif recorded[name] == value:
            note = "as before"
        else:
            note = f"was {recorded[name]:.6f}"
        print(f"{name:<28} {value:.6f}  {note}".rstrip())
    if summary := run.task.summary(metrics, num_tested(run.data)):
        print(summary)
