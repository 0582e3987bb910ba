"""Measure a finished run again on its test split; a generator also gets its scorecard."""

import json
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from pydantic import PositiveInt

from patchwork.checkpoints import write_bytes
from patchwork.config import check_value, unknown
from patchwork.errors import ConfigError
from patchwork.run import Run
from patchwork.tasks import Pixels

SCORECARD = "scorecard.json"
KEYS = {"run": str, "judge": str | None, "samples": PositiveInt}


def evaluate(config: DictConfig) -> None:
    """Print the test metrics of a run, and whether they are those of its manifest.

    A run of `task=pixels` is also scored, see `patchwork.scorecard`, with `samples` digits that it draws and, if a run
    of `task=classify` is named as the `judge`, by what that makes of them. The scores are kept in the run's folder.

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
    if judge is not None:
        from patchwork.scorecard import check_judge

        if not isinstance(run.task, Pixels):
            raise ConfigError(f"judge={config.judge} is for generators, and run={config.run} is none: leave judge away")
        check_judge(judge, run)
    kept = run.manifest.get("metrics", {})
    for name, value in run.evaluate().items():
        note = "" if name not in kept else "as before" if kept[name] == value else f"was {kept[name]:.6f}"
        print(f"{name:<28} {value:.6f}  {note}".rstrip())
    if isinstance(run.task, Pixels):
        score(run, judge, config.samples)


def score(run: Run, judge: Run | None, samples: int) -> None:
    """Print a generator's scorecard line by line, and keep it in its folder."""
    from patchwork.scorecard import line, scorecard, table

    print(f"\n  {'scorecard':<24} {'drawn':>10} {'real digits':>12}")
    scores = []
    for found in scorecard(run, judge, samples):
        print(line(found), flush=True)
        scores.append(found)
    content = {"weights_sha256": run.manifest.get("weights_sha256"), "samples": samples, "scores": table(scores)}
    if judge is None:
        print("name a run of task=classify as judge=FOLDER to hear what it makes of the drawn digits")
    else:
        measured = judge.manifest.get("metrics", {}).get("test/accuracy")
        content["judge"] = {
            "run": str(judge.folder),
            "weights_sha256": judge.manifest.get("weights_sha256"),
            "test/accuracy": measured,
        }
        print(f"judge: {judge.folder}, {measured} of the test digits right")
    path = Path(run.folder) / SCORECARD
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())
    print(f"kept in {path}")
