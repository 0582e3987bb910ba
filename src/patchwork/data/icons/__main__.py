"""Write grammar icons as PNG files: `python -m patchwork.data.icons out=FOLDER`."""

import hashlib
import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Interval
from einops import rearrange
from PIL import Image
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from patchwork.cli import call
from patchwork.data.icons import PERSONS, TENSES, VERBS, every, render
from patchwork.data.stream import generator
from patchwork.errors import ConfigError, ResourceError


def write(
    *,
    out: str,
    per_combination: PositiveInt = 5,
    difficulty: Annotated[float, Interval(ge=0, le=2)] = 1.0,
    seed: NonNegativeInt = 0,
) -> None:
    """Write icons as PNG files with `labels.json`, `manifest.json` and a contact sheet into a new folder `out`.

    Raises:
        ConfigError: if there is such a folder already.
        ResourceError: if it cannot be written.
    """
    folder, part = Path(out), Path(f"{out.rstrip('/')}.part")
    if folder.exists():
        raise ConfigError(f"out={out} is there already: name a new folder")
    labels = every(per_combination)
    images = render(labels, difficulty=difficulty, draw=generator("icons", seed)).permute(0, 2, 3, 1).contiguous()
    names = {"verb": list(VERBS), "tense": list(TENSES), "person": list(PERSONS)}
    ids = torch.stack(list(labels.values()), dim=1).tolist()
    listed = []
    for number, (verb, tense, person) in enumerate(ids):
        words = f"verb_{names['verb'][verb]}_tense_{names['tense'][tense]}_person_{names['person'][person]}"
        listed.append(
            {
                "filename": f"{words}_{number % per_combination}.png",
                "verb_id": verb,
                "tense_id": tense,
                "person_id": person,
                "class_id": number // per_combination,
            }
        )
    shutil.rmtree(part, ignore_errors=True)  # of a command that was killed
    try:
        (part / "icons").mkdir(parents=True)
        for entry, image in zip(listed, images.numpy(), strict=True):
            Image.fromarray(image).save(part / "icons" / str(entry["filename"]))
        Image.fromarray(sheet(images[::per_combination]).numpy()).save(part / "sheet.png")
        (part / "labels.json").write_text(json.dumps(listed, indent=1) + "\n")
        manifest = {
            "seed": seed,
            "difficulty": difficulty,
            "per_combination": per_combination,
            "icons": len(images),
            "sha256": hashlib.sha256(images.numpy().tobytes()).hexdigest(),
            "names": names,
            "versions": {name: version(name) for name in ("torch", "numpy", "pillow")},
        }
        (part / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        part.rename(folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise ResourceError(f"out={out} cannot be written: {error.strerror}") from error
    print(f"{len(images)} icons in {folder}/icons, all combinations at a glance in {folder}/sheet.png")


def sheet(images: Tensor) -> Tensor:
    """Lay one icon of each combination (COMBINATIONS, SIZE, SIZE, 3) out: a row a verb, tenses and persons across."""
    padded = F.pad(images, (0, 0, 2, 2, 2, 2), value=255)
    return rearrange(padded, "(verb rest) h w c -> (verb h) (rest w) c", verb=len(VERBS)).contiguous()


if __name__ == "__main__":
    sys.exit(call(write, sys.argv[1:]))
