"""Measure a finished run again on its test split; a generator also gets its scorecard."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeFloat, PositiveFloat

from patchwork.checkpoints import weights_sha256
from patchwork.config import check_value, unknown
from patchwork.errors import ConfigError
from patchwork.files import write_bytes
from patchwork.run import Run
from patchwork.tasks import Pixels

KEYS = {
    "run": str,
    "judge": str | None,
    "samples": Annotated[int, Ge(10)],
    "temperature": PositiveFloat,
    "guidance": NonNegativeFloat,
}


def evaluate(config: DictConfig) -> None:
    """Print the test metrics of a run, and whether they are those of its manifest.

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
            check_value(str(key), config[key], KEYS[str(key)])
    if OmegaConf.is_missing(config, "run") or not config.run:
        raise ConfigError("run is missing: name a run's folder, as run=outputs/seq2seq/encoder_decoder/…")
    run = Run.load(config.run)
    judge = Run.load(config.judge) if config.judge else None
    choice = {key: config[key] for key in ("temperature", "guidance")}
    if not isinstance(run.task, Pixels):
        for key, value in {"judge": config.judge, **choice}.items():
            if value not in (None, 1):
                raise ConfigError(f"{key}={value} is for generators, and run={config.run} is none: leave {key} away")
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
