"""Run the commands inside the test's process, as a user would write them."""

import itertools
import os
import runpy
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

import patchwork.config  # its resolver
import patchwork.lightning  # noqa: F401
from patchwork.errors import ConfigError

os.environ["OMP_NUM_THREADS"] = "1"  # tiny models gain nothing from more, and wait for each other where cores are few
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
TINY = [  # a whole run in about a second
    "digits=uci",
    "callbacks=none",
    "model.stem=[]",
    "model.stem_bfloat16=false",
    "model.patch_size=14",
    "model.embed_dim=16",
    "data.batch_size=16",
    "data.train_size=32",
    "data.val_size=32",
    "data.test_size=32",
    "data.eval_batch_size=32",
    "trainer.max_epochs=1",
]


CONF = ROOT / "conf"


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@cache
def pairs() -> dict[tuple[str, str], bool]:
    """Return all pairs of a task and a model, and whether they fit together."""
    register = GlobalHydra.instance()
    register.clear()
    found = {}
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for task, model in itertools.product(choices("task"), choices("model")):
            config = hydra.compose("train", [f"task={task}", f"model={model}", "digits=uci"])
            try:
                OmegaConf.resolve(config)
                get_class(config.task._target_).check_fit(get_class(config.model._target_))
                found[task, model] = True
            except (InterpolationKeyError, ConfigError):
                found[task, model] = False
    return found


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Return a function that runs `<name>.py argument ...` in an empty folder and returns its exit code."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    for variable in ("PATCHWORK_FOLDER", "PATCHWORK_MNIST"):
        monkeypatch.delenv(variable, raising=False)

    def run(name: str, *arguments: str) -> int:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [str(ROOT / f"{name}.py"), *arguments])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.environ.pop("PATCHWORK_FOLDER", None)
        return 0

    return run
