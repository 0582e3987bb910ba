"""A job of a multirun is a plain run, with those of Hydra's keys that concern it."""

import logging
import os
from pathlib import Path

from patchwork.runs.compose import compose_with_hydra
from patchwork.runs.hydra_keys import PLAIN_RUN, job_environment, job_overrides, run_dir_override, sweep_dir_of


def test_job_gets_the_keys_that_concern_it() -> None:
    shared = ["hydra.job.name=mine", "hydra.verbose=true", "hydra/job_logging=stdout"]
    own = ["hydra.sweep.dir=x", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.mode=MULTIRUN"]
    composed = compose_with_hydra([*own, *shared, "seed=1"])
    assert job_overrides(composed.hydra) == [*shared, *PLAIN_RUN]
    assert run_dir_override(compose_with_hydra(list(PLAIN_RUN)).hydra, []) is None


def test_sweep_dir_may_be_in_the_home_directory() -> None:
    assert sweep_dir_of(compose_with_hydra(["hydra.sweep.dir='~/a b'"]).hydra) == Path.home() / "a b"


def test_environment_and_logging_are_those_of_the_context() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    hydra_cfg = compose_with_hydra(["+hydra.job.env_set.A=1", "hydra.verbose=true", "hydra/job_logging=stdout"]).hydra
    with job_environment(hydra_cfg):
        assert os.environ["A"] == "1"
        assert root.level == logging.DEBUG
    assert "A" not in os.environ
    assert (root.handlers, root.level) == before
