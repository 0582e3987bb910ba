"""Which launcher has started the processes that train together."""

import os
from collections.abc import Sequence

from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from patchwork.core import slurm
from patchwork.core.errors import ConfigError, one_line

MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "JSM_NAMESPACE_SIZE")


def find_launcher() -> ClusterEnvironment | None:
    """Return the environment of torchrun or srun, if one has started several processes together.

    Lightning's requeueing is off: it writes checkpoints of its own into the working directory.

    Raises:
        ConfigError: if srun was called in a way that leaves the number of tasks on a machine open, or mpirun was.
    """
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if slurm.num_tasks() > 1:
        try:
            return SLURMEnvironment(auto_requeue=False)
        except RuntimeError as error:
            raise ConfigError(f"srun: {one_line(error)}") from error
    for name in MPI_SIZES:
        size = os.environ.get(name, "1")
        if size.isdecimal() and int(size) > 1:
            raise ConfigError(f"{name}={size}: start several processes with torchrun or srun, not with mpirun")
    return None


def count_processes(devices: int | str | Sequence[int], num_nodes: int) -> int:
    """Return how many processes a Trainer has; 2 stands for several if the machine decides."""
    if not isinstance(devices, int | str):
        return len(devices) * num_nodes
    return (devices if isinstance(devices, int) and devices > 0 else 2) * num_nodes


def cluster_environment(num_processes: int) -> ClusterEnvironment:
    """Return the environment for a Trainer of so many processes; those that nobody has started, Lightning starts."""
    launcher = find_launcher() if num_processes > 1 else None
    return LightningEnvironment() if launcher is None else launcher
