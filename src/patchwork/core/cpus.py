"""How many CPU cores this process may use, which in a container is fewer than the machine has."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """Return the number of cores that the affinity of this process and the quotas of its cgroups leave, at least 1."""
    return max(1, min([affinity(), *cpu_quotas()]))


def affinity() -> int:
    """Return the number of cores that this process may be scheduled on, whatever its quota of their time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quotas(root: Path = CGROUPS, own_cgroup: Path = OWN_CGROUP) -> list[int]:
    """Return the quotas of this process's cgroups and of their parents, in cores, rounded up.

    Args:
        root: where cgroups are mounted; version 2 has `cpu.max` there, version 1 a directory for each controller.
        own_cgroup: the file with a line `id:controllers:path` for each hierarchy that this process is in.
    """
    quotas = []
    for line in read_text(own_cgroup).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / controllers if controllers else root
        directory = mount / path.lstrip("/")
        # in a container the path may be the host's, and only the root is there
        for parent in [directory, *(each for each in directory.parents if each.is_relative_to(mount))]:
            period, quota = read_text(parent / "cpu.cfs_period_us"), read_text(parent / "cpu.cfs_quota_us")
            fields = [quota, period] if controllers else read_text(parent / "cpu.max").split()
            if len(fields) == 2 and all(field.strip().isdecimal() for field in fields) and int(fields[1]):
                quotas.append(math.ceil(int(fields[0]) / int(fields[1])))
    return quotas


def limit_threads() -> None:
    """Let libraries that are loaded later start no more threads than a quota allows; OMP_NUM_THREADS, if set, wins.

    They know of affinity but not of quotas: threads beyond the quota spin, which uses it up, while others wait.
    """
    if available_cpus() < affinity():
        os.environ.setdefault("OMP_NUM_THREADS", str(available_cpus()))


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Let NumPy's and SciPy's linear algebra run in this thread alone; also a decorator.

    Threads that share many small products mostly wait for each other, and where other processes use the cores they
    wait ten times as long.
    """
    import scipy.linalg  # noqa: F401  # has a BLAS of its own, which is limited only once it is loaded
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


def read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
