"""What tests share: a tiny configuration, running a command in this process, and reading what a run has written."""

import itertools
import json
import os
import runpy
import signal
import sys
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

from patchwork.__main__ import main
from patchwork.core.errors import ConfigError

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"
TINY = [  # a whole run in about a second
    "dataset=uci",
    "callbacks=none",
    "report=none",
    "model.stem=null",
    "model.patch_size=14",
    "model.embed_dim=16",
    "data.batch_size=16",
    "data.samples_per_epoch=32",
    "data.val_size=32",
    "data.test_size=32",
    "data.eval_batch_size=8",
    "trainer.max_epochs=1",
]


def run_command(name: str, *args: str, cwd: Path) -> int:
    """Run `patchwork <name> args …` (`train.py` for train) in this process and return its exit code.

    The working directory, the environment and the signal handlers of this process are restored.
    """
    GlobalHydra.instance().clear()
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(cwd)
        for variable in ("PATCHWORK_RUN_DIR", "PATCHWORK_MNIST"):
            monkeypatch.delenv(variable, raising=False)
        environment = dict(os.environ)
        try:
            if name == "train":
                monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *args])
                runpy.run_path(sys.argv[0], run_name="__main__")
            else:
                monkeypatch.setattr(sys, "argv", [str(ROOT / "src" / "patchwork" / "__main__.py"), name, *args])
                main()
        except SystemExit as exit_request:
            code = exit_request.code
            return code if isinstance(code, int) else int(code is not None)
        finally:
            os.environ.clear()
            os.environ.update(environment)
            for signum, handler in handlers.items():
                signal.signal(signum, handler)
    return 0


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of the only run in or below a directory."""
    (path,) = directory.glob("**/manifest.json")
    return json.loads(path.read_text())


def choices(group: str) -> list[str]:
    """Return the choices of a group of `conf/`."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@cache
def pairs() -> dict[tuple[str, str], bool]:
    """Return all pairs of a task and a model, and whether they fit together.

    Composing all of them takes seconds before the first test, so a model is put into the configuration of the task.
    """
    GlobalHydra.instance().clear()
    fits = {}
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        configs = {task: hydra.compose("train", [f"task={task}", "dataset=uci"]) for task in choices("task")}
        models = {model: hydra.compose("train", [f"model={model}"]).model for model in choices("model")}
    for (task, config), (model, node) in itertools.product(configs.items(), models.items()):
        config = config.copy()
        config.model = node
        try:
            OmegaConf.resolve(config)
            get_class(config.task._target_).check_model_interface(get_class(config.model._target_))
            fits[task, model] = True
        except (InterpolationKeyError, ConfigError):
            fits[task, model] = False
    return fits
