"""Write the icons as PNG files."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Interval
from pydantic import NonNegativeInt, PositiveInt

from patchwork.commands.app import call_command
from patchwork.core.atomic import atomic_dir
from patchwork.core.errors import ConfigError
from patchwork.core.types import PathStr

if TYPE_CHECKING:
    from torch import Tensor


def command(args: list[str]) -> int:
    return call_command("icons", write_icons, args)


def write_icons(
    *,
    out: PathStr,
    samples_per_class: PositiveInt = 5,
    difficulty: Annotated[float, Interval(ge=0, le=2)] = 1.0,
    seed: NonNegativeInt = 0,
) -> None:
    """Write icons as PNG files, with `labels.json`, `manifest.json` and a contact sheet, into a new directory.

    Args:
        out: the directory.
        samples_per_class: icons of each of the 300 combinations of verb, tense and person.
        difficulty: from 0 to 2: how much icons vary and how much of them is hidden.
        seed: of all that is random.

    Raises:
        ConfigError: if the directory exists.
        ResourceError: if it cannot be written.
    """
    from PIL import Image

    import patchwork.core.fast_import  # noqa: F401
    from patchwork.data.rng import make_rng
    from patchwork.data.sources.icons import PERSONS, TENSES, VERBS, all_labels, render
    from patchwork.figures.sheet import contact_sheet

    directory = Path(out)
    if directory.exists():
        raise ConfigError(f"out={out} exists: name a new directory")
    labels = all_labels(samples_per_class)
    rendered = render(labels, difficulty=difficulty, rng=make_rng("icons", seed))
    images = rendered.permute(0, 2, 3, 1).contiguous()  # (n, H, W, C)
    entries = describe(labels, samples_per_class)
    manifest = {
        "seed": seed,
        "difficulty": difficulty,
        "samples_per_class": samples_per_class,
        "icons": len(images),
        "sha256": hashlib.sha256(images.numpy().tobytes()).hexdigest(),
        "names": {"verb": list(VERBS), "tense": list(TENSES), "person": list(PERSONS)},
        "versions": {name: version(name) for name in ("torch", "numpy", "pillow")},
    }
    with atomic_dir(directory) as temporary:
        (temporary / "icons").mkdir()
        for entry, image in zip(entries, images.numpy(), strict=True):
            Image.fromarray(image).save(temporary / "icons" / entry["filename"])
        sheet = contact_sheet(rendered[::samples_per_class], len(TENSES) * len(PERSONS), zoom=1, background=255)
        sheet.save(temporary / "sheet.png")
        (temporary / "labels.json").write_text(json.dumps(entries, indent=1) + "\n")
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(f"{len(images)} icons in {directory}/icons, one of each combination in {directory}/sheet.png")


def describe(labels: "dict[str, Tensor]", samples_per_class: int) -> list[dict[str, Any]]:
    """Return the file name and the labels of each icon."""
    import torch

    from patchwork.data.sources.icons import PERSONS, TENSES, VERBS, combination_labels

    verbs, tenses, persons = list(VERBS), list(TENSES), list(PERSONS)
    ids = torch.stack([labels["verb"], labels["tense"], labels["person"], combination_labels(labels)], dim=1)
    entries = []
    for index, (verb, tense, person, combination) in enumerate(ids.tolist()):
        name = f"verb_{verbs[verb]}_tense_{tenses[tense]}_person_{persons[person]}_{index % samples_per_class}"
        entries.append(
            {
                "filename": f"{name}.png",
                "verb_id": verb,
                "tense_id": tense,
                "person_id": person,
                "class_id": combination,
            }
        )
    return entries
