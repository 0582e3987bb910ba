"""One HTML file that runs trained models in the browser; it asks for nothing, which its content policy enforces."""

import gzip
import json
from base64 import b64encode
from collections.abc import Sequence
from copy import deepcopy
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from patchwork.core.atomic import write_bytes
from patchwork.core.errors import ConfigError
from patchwork.data.image_data import ImageSourceDataModule
from patchwork.export.bundle import Bundle, make_bundle
from patchwork.models.patch_embed import PatchEmbed
from patchwork.report.page import read_asset
from patchwork.runs.manifest import check_dataset
from patchwork.runs.predictions import predict_images
from patchwork.runs.report import num_tested
from patchwork.runs.run import Run
from patchwork.tasks import Task
from patchwork.training.checkpoint_io import weights_sha256

MODULES = ("drawing.js", "kernels.js", "networks.js", "surface.js", "lab.js")  # each uses only those before it
NUM_CHECKS = 20
MAX_BYTES = 6_000_000


def write_lab(runs: Sequence[Run], path: Path) -> None:
    """Write a page that runs these models.

    Args:
        runs: trained models, in the order of their buttons.
        path: the file.

    Raises:
        ConfigError: if the page has no engine for a model, or would be larger than 6 MB.
        DataError: if the data set on this machine, of which test images are shown, is not that of a run.
        ResourceError: if it cannot be written.
    """
    page = build_page([pack(run) for run in runs])
    if len(page) > MAX_BYTES:
        raise ConfigError(f"the page has {len(page) / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:g}: pass fewer runs")
    write_bytes(path, page)


def pack(run: Run) -> dict[str, Any]:
    """Return a model as the page decodes it: JSON, and in `data` its tensors and test images, packed."""
    data = run.data
    task = as_in_the_page(run.task)
    bundle = make_bundle(task, data)
    assert isinstance(data, ImageSourceDataModule)
    data.prepare_data()
    check_dataset(run.manifest, data)
    pixels = first_test_pixels(data)
    predictions = predict_images(task, data, pixels)
    assert predictions.log_probs is not None
    content = b"".join(value.half().numpy().tobytes() for value in bundle.tensors.values())
    content += pixels.byte().numpy().tobytes()
    threshold = run.manifest.get("threshold", {}).get("probability")
    return {
        "name": run.run_dir.name if run.run_dir.name else bundle.spec["task"],
        "facts": describe(run, bundle),
        "sha256": weights_sha256(run.task.state_dict()),
        "spec": bundle.spec,
        "temperature": run.manifest.get("temperature", 1.0),
        "threshold": threshold or 0.0,
        "layout": [[name, list(value.shape)] for name, value in bundle.tensors.items()],
        "checks": [[round(p, 7) for p in row] for row in predictions.log_probs.exp().flatten(1).tolist()],
        "data": b64encode(gzip.compress(content, 9, mtime=0)).decode(),
    }


def as_in_the_page(task: Task) -> Task:
    """Return a copy of a task in the precision of the page: weights rounded to 16 bits, and 32 bits from there on."""
    copy = deepcopy(task).float()
    copy.load_state_dict({name: w.half() if w.is_floating_point() else w for name, w in task.state_dict().items()})
    for module in copy.modules():
        if isinstance(module, PatchEmbed):
            module.precision = 32
    return copy.eval()


def first_test_pixels(data: ImageSourceDataModule) -> torch.Tensor:
    """Return the first test images (n, H, W), from 0 to 255."""
    images = data.make_batch("test", (0, 0), slice(0, NUM_CHECKS))["image"]
    pixels = (images * data.dataset.std + data.dataset.mean) * 255
    return pixels[:NUM_CHECKS, 0].round().clamp(0, 255)


def describe(run: Run, bundle: Bundle) -> str:
    parameters = sum(parameter.numel() for parameter in run.task.model.parameters())
    summary = run.task.summary(run.manifest.get("metrics", {}), num_tested(run.data))
    return " · ".join(filter(None, [bundle.spec["task"], f"{parameters:,} parameters", summary]))


def build_page(models: Sequence[dict[str, Any]]) -> bytes:
    """Return the page with these models."""
    style = read_asset("page.css") + read_lab("lab.css")
    script = join_modules()
    bundles = json.dumps(models, separators=(",", ":")).replace("<", "\\u003c")
    digests = " ".join(f"'sha256-{b64encode(sha256(each.encode()).digest()).decode()}'" for each in (script, bundles))
    policy = (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Patchwork lab</title>\n<style>\n{style}</style>\n</head>\n<body>\n{read_lab('index.html')}"
        f'<script type="application/json" id="bundles">{bundles}</script>\n'
        f'<script type="module">{script}</script>\n</body>\n</html>\n'
    ).encode()


def join_modules() -> str:
    """Return all modules as one, as a page without requests cannot import; their names differ."""
    lines = [line for name in MODULES for line in read_lab(name).splitlines()]
    kept = [line.removeprefix("export ") for line in lines if not line.startswith("import ")]
    return "\n".join(kept) + "\n"


def read_lab(name: str) -> str:
    return files("patchwork").joinpath("lab", name).read_text(encoding="utf-8")
