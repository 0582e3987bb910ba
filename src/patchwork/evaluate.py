"""Measure a finished run again on its test split, or several as one; a generator also gets its scorecard."""

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, MinLen
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeFloat, PositiveFloat

from patchwork.checkpoints import weights_sha256
from patchwork.config import check_value, unknown
from patchwork.errors import ConfigError
from patchwork.files import write_bytes
from patchwork.run import Run, same_digits
from patchwork.tasks import Pixels

OWN = ("model", "optimizer", "scheduler", "monitor", "mode")  # what runs of one task may differ in
KEYS = {
    "run": str | Annotated[list[str], MinLen(1)],
    "judge": str | None,
    "samples": Annotated[int, Ge(10)],
    "temperature": PositiveFloat,
    "guidance": NonNegativeFloat,
}


def evaluate(config: DictConfig) -> None:
    """Print the test metrics of a run, and whether they are those of its manifest; or those of several runs as one.

    A run of `task=pixels` is also scored, see `patchwork.scorecard`, with `samples` digits that it draws, with a
    `temperature` and `guidance` if these are not 1, and, if a run of `task=classify` is named as the `judge`, by what
    that makes of them. The scores are kept in the run's folder.

    Raises:
        PatchworkError: its kind says what is at fault.
    """
    for key in config:
        if key not in KEYS:
            raise unknown(str(key), config[key], "the configuration", KEYS)
        if not OmegaConf.is_missing(config, str(key)):
            value = config[key]
            plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            check_value(str(key), plain, KEYS[str(key)])
    if OmegaConf.is_missing(config, "run") or not config.run:
        raise ConfigError("run is missing: name a run's folder, as run=outputs/seq2seq/encoder_decoder/…")
    choice = {key: config[key] for key in ("temperature", "guidance")}
    if not isinstance(config.run, str):
        check_unset({"judge": config.judge, **choice}, "run names several")
        evaluate_together([Path(folder) for folder in config.run])
        return
    run = Run.load(config.run)
    judge = Run.load(config.judge) if config.judge else None
    if not isinstance(run.task, Pixels):
        check_unset({"judge": config.judge, **choice}, f"run={config.run} is none")
    elif config.guidance != 1 and not (run.task.unlabelled and run.task.names_classes):
        raise ConfigError(
            f"guidance={config.guidance} is for runs that draw with a class and without, see task.unlabelled"
        )
    if judge is not None:
        from patchwork.scorecard import check_judge

        check_judge(judge, run)
    kept = run.manifest.get("metrics", {})
    for name, value in run.evaluate().items():
        note = "" if name not in kept else "as before" if kept[name] == value else f"was {kept[name]:.6f}"
        print(f"{name:<28} {value:.6f}  {note}".rstrip())
    if isinstance(run.task, Pixels):
        score(run, judge, config.samples, **choice)


def check_unset(settings: dict[str, Any], reason: str) -> None:
    """Raise a `ConfigError` if something is set that says how a generator is scored."""
    for key, value in settings.items():
        if value not in (None, 1):
            raise ConfigError(f"{key}={value} is for one generator, and {reason}: leave {key} away")


def evaluate_together(folders: list[Path]) -> None:
    """Print the test metrics of several runs that answer as one, beside those that they have alone.

    Raises:
        ConfigError: if they are not of one task and the same test samples.
        PatchworkError: as `Run.load` does.
    """
    runs = [Run.load(folder) for folder in folders]
    first = runs[0]
    for run in runs:
        check_alike(first, run)
    first.task.model = first.task.together([run.model for run in runs])
    alone = [run.manifest.get("metrics", {}) for run in runs]
    for name, value in first.evaluate().items():
        each = [metrics[name] for metrics in alone if name in metrics]
        spread = f" ± {statistics.stdev(each):.6f}" if len(each) > 1 else ""
        print(f"{name:<28} {value:.6f}" + (f"  alone {statistics.fmean(each):.6f}{spread}" if each else ""))


def check_alike(one: Run, other: Run) -> None:
    """Raise a `ConfigError` unless two runs are of one task and are measured on the same samples."""
    tasks = [{key: run.config.task[key] for key in run.config.task if key not in OWN} for run in (one, other)]
    if tasks[0] != tasks[1]:
        raise ConfigError(f"run={other.folder} is of another task than {one.folder}: runs of one task answer as one")
    batches = []
    for run in (one, other):
        run.data.prepare_data()
        run.data.setup("test")
        same_digits(run.manifest, run.data)
        batches.append(run.data.make("test", (0, 0), slice(None)))
    fewest = min(len(next(iter(batch.values()))) for batch in batches)
    same = all(torch.equal(values[:fewest], batches[1][name][:fewest]) for name, values in batches[0].items())
    if not same or one.data.sizes["test"] != other.data.sizes["test"]:
        raise ConfigError(f"run={other.folder} is measured on other samples than {one.folder}: data must be the same")


def score(run: Run, judge: Run | None, samples: int, **choice: float) -> None:
    """Print a generator's scorecard line by line, and keep it in its folder as it grows."""
    from patchwork.scorecard import line, scorecard

    content: dict[str, Any] = {"samples": samples, **choice, "weights_sha256": weights_sha256(run.task.state_dict())}
    if judge is not None:
        measured = judge.manifest.get("metrics", {}).get("test/accuracy")
        digest = weights_sha256(judge.task.state_dict())
        content["judge"] = {"run": str(judge.folder), "weights_sha256": digest, "test/accuracy": measured}
        print(f"\njudge: {judge.folder}, {measured} of the test digits right, weights {digest[:12]}…")
    print(f"\n  {'scorecard':<24} {'drawn':>10} {'real digits':>12}")
    path = Path(run.folder) / "".join(
        ["scorecard", *(f"-{key}-{value:g}" for key, value in choice.items() if value != 1), ".json"]
    )
    content["scores"] = []
    for found in scorecard(run, judge, samples, **choice):
        print(line(found), flush=True)
        content["scores"].append(asdict(found))
        write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())
    if judge is None:
        print("name a run of task=classify as judge=FOLDER to hear what it makes of the drawn digits")
    print(f"kept in {path}")
