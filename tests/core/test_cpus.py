import os
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from patchwork.core import cpus
from patchwork.core.cpus import available_cpus, cpu_quotas, limit_threads, single_blas_thread


@pytest.mark.parametrize(
    ("line", "files", "quotas"),
    [
        ("0::/", {"cpu.max": "150000 100000\n"}, [2]),  # in a container
        ("0::/", {"cpu.max": "max 100000\n"}, []),
        ("0::/user/job", {"cpu.max": "400000 100000", "user/cpu.max": "50000 100000"}, [1, 4]),  # of a parent
        ("0::/docker/of/the/host", {"cpu.max": "300000 100000"}, [3]),  # a path that is not visible here
        ("4:cpu,cpuacct:/", {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, [2]),
        ("4:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ("4:memory:/", {"memory/cpu.max": "100000 100000"}, []),
        ("0::/", {"cpu.max": "not a quota"}, []),
        ("0::/", {}, []),
        ("", {}, []),
    ],
)
def test_quotas_of_a_cgroup_and_its_parents(
    tmp_path: Path, line: str, files: dict[str, str], quotas: list[int]
) -> None:
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "self").write_text(f"{line}\n" if line else "")
    assert cpu_quotas(root, tmp_path / "self") == quotas


def test_no_cgroups_no_quotas(tmp_path: Path) -> None:
    assert cpu_quotas(tmp_path, tmp_path / "missing") == []


def test_the_smallest_limit_decides_threads_unless_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "affinity", lambda: 16)
    monkeypatch.setattr(cpus, "cpu_quotas", list)
    monkeypatch.delenv("OMP_NUM_THREADS")
    limit_threads()
    assert available_cpus() == 16
    assert "OMP_NUM_THREADS" not in os.environ  # libraries know of affinity
    monkeypatch.setattr(cpus, "cpu_quotas", lambda: [4, 2])
    limit_threads()
    assert available_cpus() == 2
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_linear_algebra_is_limited_to_one_thread_and_then_as_before() -> None:
    def threads() -> list[int]:
        return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]

    with threadpool_limits(2, user_api="blas"):
        before = threads()
        with single_blas_thread():
            assert {*threads()} == {1}
        assert threads()[: len(before)] == before
