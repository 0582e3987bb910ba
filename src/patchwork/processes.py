"""Several processes that train one run: how they meet, agree on its folder, and end together.

Lightning starts the others itself when training begins, and the folder is told to them by `FOLDER`. Under torchrun and
srun, which may start them on several machines, all begin at once; then they meet at a store that torch keeps for them:

1. The first checks everything and makes the folder; the others wait until it tells them which.
2. The others check everything for themselves: their machine may lack data or memory.
3. When all are ready they train. What one finds wrong until then ends all of them, and the first tells it.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.distributed import HashStore, PrefixStore, Store, rendezvous

from patchwork.errors import ConfigError, DataError, Interrupted, NumericError, PatchworkError, ResourceError, one_line
from patchwork.multirun import JOB

FOLDER = "PATCHWORK_FOLDER"  # tells the run's folder to the processes that do not choose it
PATIENCE = timedelta(hours=1)  # for the others to come so far


def main_process() -> bool:
    """Return whether this is the process that writes and prints, of those that train together."""
    return getattr(rank_zero_only, "rank", 0) == 0


@dataclass
class Team:
    """The processes that were started together, as seen by one of them."""

    store: Store
    rank: int
    size: int
    environment: ClusterEnvironment | None = None  # that torchrun or srun has set
    agreed: bool = False

    @classmethod
    def meet(cls) -> "Team":
        """Meet the processes that torchrun or srun has started; a process that was started alone is a team of one.

        Raises:
            ConfigError: if srun was asked for them in a way that leaves their number on a machine open.
        """
        for kind in (TorchElasticEnvironment, SLURMEnvironment):
            if kind.detect():
                try:
                    here = kind()
                except RuntimeError as error:
                    raise ConfigError(f"srun: {one_line(error)}") from error
                if here.world_size() > 1:
                    address = f"tcp://{here.main_address}:{here.main_port}"
                    store, rank, size = next(rendezvous(address, here.global_rank(), here.world_size()))
                    store.set_timeout(PATIENCE)
                    return cls(PrefixStore("patchwork", store), rank, size, here)
        return cls(HashStore(), 0, 1)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Tell the others what goes wrong here, until all are ready."""
        try:
            yield
        except BaseException as error:
            if not self.agreed:
                known = isinstance(error, PatchworkError | Interrupted)
                text = one_line(error) if known else f"{type(error).__name__}: {one_line(error)}"
                code = error.exit_code if isinstance(error, PatchworkError | Interrupted) else 1
                for key in ("folder", "ready"):
                    with suppress(ResourceError):  # the one that holds the store may be gone
                        self.say(key, fault=text, exit_code=code)
            raise

    def say(self, key: str, **content: Any) -> None:
        """Tell the others.

        Raises:
            ResourceError: if the process is gone that holds the store.
        """
        try:
            self.store.set(f"{key} {self.rank}", json.dumps(content))
        except RuntimeError as error:
            raise ResourceError(f"process 0 is gone: {one_line(error)[:200]}") from error

    def hear(self, key: str, rank: int) -> dict[str, Any]:
        """Wait for what another process says.

        Raises:
            PatchworkError: of the same kind as what went wrong there.
            ResourceError: if it is gone, or does not come.
        """
        name, end = f"{key} {rank}", time.monotonic() + PATIENCE.total_seconds()
        try:
            while not self.store.check([name]):  # the store's own waiting would be deaf to signals
                if time.monotonic() > end:
                    raise ResourceError(f"process {rank} has not come so far within {PATIENCE}")
                time.sleep(0.05)
            content = json.loads(self.store.get(name))
        except RuntimeError as error:
            raise ResourceError(f"process {rank} is gone: {one_line(error)[:200]}") from error
        if "fault" in content:
            kinds = {kind.exit_code: kind for kind in (ConfigError, DataError, NumericError, ResourceError)}
            raise kinds.get(content["exit_code"], PatchworkError)(f"process {rank}: {content['fault']}")
        return content

    def share(self, folder: Path) -> None:
        """Tell the others which folder the run has: those that are here, and those that Lightning will start."""
        os.environ[FOLDER] = str(folder)
        if self.rank == 0:
            self.say("folder", folder=str(folder))

    def follow(self) -> None:
        """Wait until the first process has made the run's folder, where this is another."""
        if self.rank > 0:
            os.environ[FOLDER] = self.hear("folder", 0)["folder"]

    def agree(self) -> None:
        """Wait until all are ready to train."""
        if self.rank == 0:
            for other in range(1, self.size):
                self.hear("ready", other)
        self.say("ready")
        if self.rank > 0:
            self.hear("ready", 0)
        self.agreed = True


def check_processes(strategy: str, devices: int, nodes: int, team: Team) -> None:
    """Check that those processes were started which the configuration asks for.

    Raises:
        ConfigError: if not, or if this is a job of -m.
    """
    if strategy != "auto" and JOB in os.environ:
        raise ConfigError(
            f"trainer.strategy={strategy} cannot be swept with -m, which gives each job one process and its share of "
            "the cores: give one command for each run, without -m"
        )
    if team.environment is not None:
        try:
            team.environment.validate_settings(devices, nodes)
        except ValueError as error:
            raise ConfigError(f"trainer.devices={devices} or trainer.num_nodes={nodes}: {one_line(error)}") from error
    if team.size == 1 and nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={nodes}, but one process was started: use torchrun or srun on each machine"
        )
    if team.size == 1 and os.environ.get("WORLD_SIZE", "1") != "1" and FOLDER not in os.environ:
        raise ConfigError("WORLD_SIZE is set, but neither torchrun nor srun has started this process: unset it")
