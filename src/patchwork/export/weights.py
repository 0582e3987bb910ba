"""Write a run as a weights folder, with what the rounded weights are measured to do."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from patchwork.analysis.calibration import answer_temperature
from patchwork.core.atomic import atomic_dir
from patchwork.core.errors import ConfigError
from patchwork.runs.predictions import predict
from patchwork.runs.report import num_tested
from patchwork.runs.run import Run, load_weights
from patchwork.runs.run_dir import CONFIG_FILE, MANIFEST_FILE
from patchwork.runs.weights import (
    CARD_FILE,
    SUMS_FILE,
    WEIGHTS_FILE,
    format_sums,
    manifest_of_weights,
    read_weights_file,
)
from patchwork.stats.selective import MAX_ERROR, confidence_threshold
from patchwork.tasks import Predictions

LICENSES = {"mnist": "MNIST (CC BY-SA 3.0)", "icons": "synthetic icons of this package (MIT)"}


def write_weights(run: Run, folder: Path, *, command: str) -> None:
    """Write a run as a weights folder, which replaces another one of this path.

    Args:
        run: the run; its weights are rounded to half precision, as they are in the file.
        folder: directory to write.
        command: what trains it again.

    Raises:
        ConfigError: if the folder holds something else than weights.
        DataError: if the data set on this machine is not that of the run.
        ResourceError: if it cannot be written.
    """
    from safetensors.torch import save

    if folder.exists() and not (folder / WEIGHTS_FILE).exists() and any(folder.iterdir()):
        raise ConfigError(f"out={folder} is no weights folder and not empty: pass another directory")
    content = save(half_precision(run.task.state_dict()))
    with atomic_dir(folder.with_name(f"{folder.name}.new")) as temporary:
        path = temporary / WEIGHTS_FILE
        path.write_bytes(content)
        load_weights(run.task, {"state_dict": read_weights_file(path)}, path)
        manifest = manifest_of_weights(run.manifest, command=command, precision="float16", **measure(run))
        files = {
            WEIGHTS_FILE: content,
            CONFIG_FILE: OmegaConf.to_yaml(run.config).encode(),
            MANIFEST_FILE: (json.dumps(manifest, indent=2) + "\n").encode(),
            CARD_FILE: format_card(folder.name, run, manifest).encode(),
        }
        for name, file in {**files, SUMS_FILE: format_sums(files).encode()}.items():
            (temporary / name).write_bytes(file)
        shutil.rmtree(folder, ignore_errors=True)
    folder.with_name(f"{folder.name}.new").rename(folder)


def half_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with all floating-point tensors in half precision, contiguous, as safetensors needs them.

    Raises:
        ConfigError: if one of them is too large for half precision.
    """
    halved = {
        name: (weight.half() if weight.is_floating_point() else weight).contiguous() for name, weight in weights.items()
    }
    infinite = next((name for name, weight in halved.items() if not torch.isfinite(weight).all()), None)
    if infinite is not None:
        raise ConfigError(f"the weights {infinite} do not fit half precision: they are not finite, or above 65,504")
    return halved


def measure(run: Run) -> dict[str, Any]:
    """Return what is measured with the weights of a run: test metrics, and on validation how far to trust it."""
    return {"metrics": run.evaluate(), **measure_confidence(run)}


def measure_confidence(run: Run) -> dict[str, Any]:
    """Return the temperature, and the threshold that keeps a promised error rate, both from validation answers."""
    if not run.task.saves_predictions:
        return {}
    predictions = predict(run.task, run.data, "val", precision=run.precision)
    if predictions.log_probs is None or predictions.correct is None:
        return {}
    temperature, _ = answer_temperature(predictions)
    temperature = temperature if math.isfinite(temperature) else 1.0
    confidence, correct = answer_confidence(predictions, temperature), answers_correct(predictions)
    threshold, coverage = confidence_threshold(confidence.numpy(), correct.numpy())
    return {
        "temperature": round(temperature, 4),
        "threshold": {
            "probability": round(threshold, 6) if math.isfinite(threshold) else None,
            "max_error": MAX_ERROR,
            "coverage": round(coverage, 4),
            "answers": len(confidence),
            "split": "val",
        },
    }


def answer_confidence(predictions: Predictions, temperature: float) -> Tensor:
    """Return the probability (n,) of each answer, or of each token of a sequence, at a temperature."""
    assert predictions.log_probs is not None
    log_probs = (predictions.log_probs.double() / temperature).log_softmax(dim=-1)
    return log_probs.gather(-1, predictions.prediction.long()[..., None]).exp().flatten()


def answers_correct(predictions: Predictions) -> Tensor:
    assert predictions.target is not None
    return (predictions.prediction == predictions.target).flatten()


def format_card(name: str, run: Run, manifest: Mapping[str, Any]) -> str:
    """Return the card of a model, with the metadata that model hubs read in its head."""
    data, metrics = run.data.source.name, manifest["metrics"]
    head = ["---", "license: mit", f"datasets: [{data}]", "tags: [patchwork, vision-transformer]", "---"]
    summary = run.task.summary(metrics, num_tested(run.data))
    threshold = manifest.get("threshold", {})
    lines = [
        f"# {name}",
        f"`task={manifest['task']} model={manifest['model']}`, {manifest['parameters']:,} parameters, half precision.",
        f"Trained by `{manifest['command']}` on {LICENSES.get(data, data)}.",
        f"**Measured with this file:** {summary or 'see below'}.",
        "\n".join(f"- `{metric}` {value:g}" for metric, value in metrics.items()),
        "**Intended use:** to look at how small transformers work, and as a baseline. Not for documents, checks or "
        "forms: it has seen no handwriting but that of its data set, and it gives an answer to any picture.",
    ]
    if threshold.get("probability") is not None:
        lines.append(
            f"**Confidence:** divide logits by the temperature {manifest['temperature']:g}. Of validation answers with "
            f"a probability from {threshold['probability']:g} on, {100 * threshold['coverage']:.1f} % of all, at most "
            f"{100 * threshold['max_error']:g} % are wrong (95 % confidence). Pictures of another origin keep no such "
            "promise."
        )
    return "\n".join(head) + "\n\n" + "\n\n".join(lines) + "\n"
