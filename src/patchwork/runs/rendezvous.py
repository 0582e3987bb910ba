"""Several processes that train one run: how they meet, agree on its directory, and end together.

Lightning starts the other processes itself when training begins, and the environment variable `RUN_DIR` passes the run
directory to them. Under torchrun and srun, which may start them on several machines, all start at the same time; they
meet at a key-value store of torch's:

1. Rank 0 checks everything and makes the run directory; the others wait until it publishes the path.
2. The others check everything for themselves: their machine may lack data or memory.
3. When all are ready, they train. An error in one of them until then ends all, and rank 0 prints it.
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
from torch.distributed import HashStore, PrefixStore, Store, rendezvous

from patchwork.core.errors import (
    ConfigError,
    DataError,
    Interrupted,
    NumericError,
    PatchworkError,
    ResourceError,
    one_line,
)
from patchwork.core.job import JOB
from patchwork.core.rank import RUN_DIR

TIMEOUT = timedelta(hours=1)  # of waiting for another process
POLL_SECONDS = 0.05


@dataclass
class Rendezvous:
    """The processes that were started together, as seen by one of them."""

    store: Store
    rank: int
    size: int
    environment: ClusterEnvironment | None = None  # set by torchrun or srun
    ready: bool = False

    @classmethod
    def join(cls) -> "Rendezvous":
        """Meet the processes that torchrun or srun has started; a process that was started alone meets nobody.

        Raises:
            ConfigError: if srun was called in a way that leaves the number of tasks on a machine open.
        """
        for kind in (TorchElasticEnvironment, SLURMEnvironment):
            if kind.detect():
                try:
                    environment = kind()
                except RuntimeError as error:
                    raise ConfigError(f"srun: {one_line(error)}") from error
                if environment.world_size() > 1:
                    address = f"tcp://{environment.main_address}:{environment.main_port}"
                    store, rank, size = next(rendezvous(address, environment.global_rank(), environment.world_size()))
                    store.set_timeout(TIMEOUT)
                    return cls(PrefixStore("patchwork", store), rank, size, environment)
        return cls(HashStore(), 0, 1)

    @contextmanager
    def propagate_errors(self) -> Iterator[None]:
        """Publish an error of this process to the others, until all are ready."""
        try:
            yield
        except BaseException as error:
            if not self.ready:
                expected = isinstance(error, PatchworkError | Interrupted)
                message = one_line(error) if expected else f"{type(error).__name__}: {one_line(error)}"
                exit_code = error.exit_code if isinstance(error, PatchworkError | Interrupted) else 1
                for key in ("run_dir", "ready"):
                    with suppress(ResourceError):  # the process that holds the store may be gone
                        self.publish(key, error=message, exit_code=exit_code)
            raise

    def publish(self, key: str, **content: Any) -> None:
        """Publish a value of this process under a key.

        Raises:
            ResourceError: if the process that holds the store is gone.
        """
        try:
            self.store.set(f"{key} {self.rank}", json.dumps(content))
        except RuntimeError as error:
            raise ResourceError(f"process 0 is gone: {one_line(error)[:200]}") from error

    def wait_for(self, key: str, rank: int) -> dict[str, Any]:
        """Wait for the value that another process publishes under a key, and return it.

        Raises:
            PatchworkError: of the same kind as the error of that process.
            ResourceError: if it is gone, or does not publish in time.
        """
        name, deadline = f"{key} {rank}", time.monotonic() + TIMEOUT.total_seconds()
        try:
            while not self.store.check([name]):  # the store's own wait would not react to signals
                if time.monotonic() > deadline:
                    raise ResourceError(f"timed out after {TIMEOUT} waiting for process {rank}")
                time.sleep(POLL_SECONDS)
            content = json.loads(self.store.get(name))
        except RuntimeError as error:
            raise ResourceError(f"process {rank} is gone: {one_line(error)[:200]}") from error
        if "error" in content:
            kinds = {kind.exit_code: kind for kind in (ConfigError, DataError, NumericError, ResourceError)}
            raise kinds.get(content["exit_code"], PatchworkError)(f"process {rank}: {content['error']}")
        return content

    def broadcast_run_dir(self, run_dir: Path) -> None:
        """Pass the run directory to the other processes: those that exist, and those that Lightning will start."""
        os.environ[RUN_DIR] = str(run_dir)
        if self.rank == 0:
            self.publish("run_dir", run_dir=str(run_dir))

    def receive_run_dir(self) -> None:
        """Wait until rank 0 has made the run directory, in the other processes."""
        if self.rank > 0:
            os.environ[RUN_DIR] = self.wait_for("run_dir", 0)["run_dir"]

    def barrier(self) -> None:
        """Wait until all processes are ready to train."""
        if self.rank == 0:
            for rank in range(1, self.size):
                self.wait_for("ready", rank)
        self.publish("ready")
        if self.rank > 0:
            self.wait_for("ready", 0)
        self.ready = True


def check_processes(strategy: str, devices: int, nodes: int, rendezvous: Rendezvous) -> None:
    """Check that the processes that the configuration asks for were started.

    Raises:
        ConfigError: if not, or if this is a job of a multirun.
    """
    if strategy != "auto" and JOB in os.environ:
        raise ConfigError(
            f"trainer.strategy={strategy} cannot be used with -m, which gives each job one process and its share of "
            "the cores: start each run with a command of its own, without -m"
        )
    if rendezvous.environment is not None:
        try:
            rendezvous.environment.validate_settings(devices, nodes)
        except ValueError as error:
            raise ConfigError(f"trainer.devices={devices} or trainer.num_nodes={nodes}: {one_line(error)}") from error
    if rendezvous.size == 1 and nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={nodes}, but one process was started: use torchrun or srun on each machine"
        )
    if rendezvous.size == 1 and os.environ.get("WORLD_SIZE", "1") != "1" and RUN_DIR not in os.environ:
        raise ConfigError("WORLD_SIZE is set, but neither torchrun nor srun started this process: unset it")
