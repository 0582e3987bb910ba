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
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.environments import ClusterEnvironment, TorchElasticEnvironment
from torch.distributed import HashStore, PrefixStore, Store, TCPStore, rendezvous

from patchwork.core import slurm
from patchwork.core.errors import (
    ConfigError,
    DataError,
    Interrupted,
    NumericError,
    PatchworkError,
    PatchworkWarning,
    ResourceError,
    one_line,
)
from patchwork.core.job import JOB
from patchwork.core.rank import RUN_DIR
from patchwork.training.cluster import find_launcher

TIMEOUT = timedelta(hours=1)  # of waiting for another process, once all have met
MEETING_SECONDS, NOTICE_SECONDS = 600.0, 3.0  # until all have met; until a line says who is missing
POLL_SECONDS, LEAVE_SECONDS = 0.05, 5.0


@dataclass
class Rendezvous:
    """The processes that were started together, as seen by one of them."""

    store: Store
    rank: int
    size: int
    environment: ClusterEnvironment | None = None  # set by torchrun or srun
    ready: bool = False

    @classmethod
    def join(cls, num_processes: Callable[[], int]) -> "Rendezvous":
        """Meet the processes that torchrun or srun has started; a process that was started alone meets nobody.

        Args:
            num_processes: returns how many processes the configuration asks for.

        Raises:
            ConfigError: if srun was called in a way that leaves the number of tasks on a machine open, or mpirun was.
            ResourceError: if the others do not come.
        """
        ambiguous = not TorchElasticEnvironment.detect() and slurm.num_tasks() > 1 and not slurm.srun_started_others()
        if ambiguous and num_processes() == 1:
            count = os.environ.pop("SLURM_NTASKS")  # for this training, which is none of several tasks
            message = f"SLURM_NTASKS={count}, but this run is one process and trains alone: unset SLURM_NTASKS"
            warnings.warn(
                f"{message}, or ask for several with accelerator=ddp and srun", PatchworkWarning, stacklevel=2
            )
        launcher = find_launcher()
        if launcher is None or launcher.world_size() == 1:
            return cls(HashStore(), 0, 1)
        self = cls(PrefixStore("patchwork", meet(launcher)), launcher.global_rank(), launcher.world_size(), launcher)
        self.wait_for_all()
        return self

    def wait_for_all(self) -> None:
        """Wait in rank 0 until all processes have come.

        Raises:
            ResourceError: if some do not come in time.
        """
        self.publish("joined")
        if self.rank == 0:
            notice = Notice(self.environment)
            while missing := sum(not self.store.check([f"joined {rank}"]) for rank in range(self.size)):
                notice.wait(f"{missing} other process{'es' if missing > 1 else ''}")

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
                with suppress(ResourceError):  # the process that holds the store may be gone
                    for key in ("run_dir", "ready", "left"):
                        self.publish(key, error=message, exit_code=exit_code)
                    self.keep_store()
            raise

    def keep_store(self) -> None:
        """Let the others read in rank 0's store why it ends, before it does."""
        deadline = time.monotonic() + LEAVE_SECONDS
        left = [f"left {rank}" for rank in range(self.size)]
        while self.rank == 0 and not self.store.check(left) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

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


class Notice:
    """Say after a moment that other processes are missing, and give up at last."""

    def __init__(self, launcher: ClusterEnvironment | None) -> None:
        self.start, self.shown = time.monotonic(), False
        self.of = "torchrun's" if isinstance(launcher, TorchElasticEnvironment) else "SLURM's"
        self.size = 1 if launcher is None else launcher.world_size()
        self.remedy = "start all of them" if self.of == "torchrun's" else "start with srun, or unset SLURM_NTASKS"

    def wait(self, whom: str) -> None:
        """Wait a little longer.

        Raises:
            ResourceError: if it has been long enough.
        """
        seconds = time.monotonic() - self.start
        if seconds > MEETING_SECONDS:
            raise ResourceError(f"waited {seconds:.0f} s for {whom} of {self.of} {self.size}: {self.remedy}")
        if seconds > NOTICE_SECONDS and not self.shown:
            print(f"waiting for {whom} of {self.of} {self.size}; {self.remedy}", file=sys.stderr, flush=True)
            self.shown = True
        time.sleep(POLL_SECONDS)


def meet(launcher: ClusterEnvironment) -> Store:
    """Return the store of all processes, which rank 0 holds, or torchrun's agent.

    torch's own waits for the others do not react to signals, so that every wait is here.

    Raises:
        ResourceError: if the process that holds the store does not come, or its port is in use.
    """
    host, port, size = launcher.main_address, launcher.main_port, launcher.world_size()
    has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_host = launcher.global_rank() == 0 and not has_agent
    notice = Notice(launcher)
    while not is_host and not accepts(host, port):
        notice.wait(f"{'the agent' if has_agent else 'process 0'} at {host}:{port}")
    try:
        if has_agent:
            store, _, _ = next(rendezvous(f"tcp://{host}:{port}", launcher.global_rank(), size))
        else:
            store = TCPStore(host, port, size, is_host, wait_for_workers=False, multi_tenant=True)
    except RuntimeError as error:
        raise ResourceError(
            f"cannot meet at {host}:{port} (MASTER_ADDR, MASTER_PORT): {one_line(error)[:200]}"
        ) from error
    store.set_timeout(TIMEOUT)
    return store


def accepts(host: str, port: int) -> bool:
    """Return whether something listens at a port."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


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
