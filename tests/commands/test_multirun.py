"""Several jobs with one command: none stops another, a table shows how each ended, missing ones can be run later."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import joblib
import pytest
from helpers import CONF, ROOT, TINY
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from patchwork.commands import multirun
from patchwork.core.errors import Interrupted
from patchwork.core.job import JOB, read_json, write_json
from patchwork.core.overrides import parse_overrides
from patchwork.core.subprocesses import setup_child

Command = Callable[..., int]
LONG = [*TINY, "data.samples_per_epoch=3200", "checkpoint_every_seconds=0.05"]
RUNS = "outputs/seq2seq/encoder_decoder"


def read_jobs(directory: Path) -> list[dict[str, Any]]:
    """Return the status files of the jobs of the latest multirun."""
    sweep_dir = max(directory.glob("outputs/multirun/*"))
    return [read_json(path) for path in sorted(sweep_dir.glob("*.json"))]


def read_manifests(directory: Path) -> list[dict[str, Any]]:
    manifests = [read_json(path) for path in directory.glob(f"{RUNS}/*/manifest.json")]
    return sorted(manifests, key=lambda manifest: manifest["seed"])


def parse_table(output: str, *columns: str) -> list[dict[str, str]]:
    """Return the rows of the last table with these columns, by column; a cell may be empty."""
    lines = output.splitlines()
    header = max(number for number, line in enumerate(lines) if {*columns} <= {*line.split()})
    names = lines[header].split()
    starts = [lines[header].index(name) for name in names] + [None]
    rows = []
    for line in lines[header + 1 :]:
        if not line or line.startswith("job "):
            break
        rows.append({name: line[slice(*starts[i : i + 2])].strip() for i, name in enumerate(names)})
    return rows


def start_multirun(*overrides: str, cwd: Path) -> subprocess.Popen:
    """Start a multirun as a terminal does, in a process group that gets its signals together."""
    args = [sys.executable, ROOT / "train.py", "-m", *overrides]
    return subprocess.Popen(args, cwd=cwd, start_new_session=True, stdout=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], object], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_checkpoint(index: int, directory: Path) -> bool:
    """Return whether a job of the latest multirun has saved a checkpoint to resume from."""
    paths = sorted(directory.glob(f"outputs/multirun/*/{index}.json"))
    run_dir = read_json(paths[-1]).get("run_dir") if paths else None
    return run_dir is not None and (directory / run_dir / "checkpoints" / "last.ckpt").exists()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks processes up in /proc")

# A job that takes no time: it fails at a negative seed, and otherwise says that it is done.
FAKE_JOB = """
import json, os, pathlib, sys
path = pathlib.Path(os.environ[{job!r}])
facts = json.loads(path.read_text())
if any(arg.startswith("seed=-") for arg in sys.argv):
    path.write_text(json.dumps({{**facts, "error": "seed is not allowed"}}))
    sys.exit(2)
path.write_text(json.dumps({{**facts, "done": True}}))
"""


@pytest.fixture
def fake_jobs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let the jobs of a multirun in this process be fake ones, and return the list of their arguments."""
    started = []

    def start(name: str, args: Iterable[object], env: Mapping[str, str], output: IO[bytes] | None) -> subprocess.Popen:
        assert name == "train"
        started.append([str(arg) for arg in args])
        script = [sys.executable, "-S", "-c", FAKE_JOB.format(job=JOB), *started[-1]]
        return subprocess.Popen(script, env={**os.environ, **env}, stdout=output, stderr=output)

    monkeypatch.setattr(multirun, "start", start)
    return started


@pytest.fixture
def late_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only the job itself find that its seed is wrong, as if that could not be seen before."""
    for check in ("check_scalars", "check_config"):
        monkeypatch.setattr(multirun, check, lambda config: None)


# --- whole multiruns -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("late_check")
def test_jobs_run_in_order_and_a_failed_one_stops_no_other(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each error is printed once; the table has each job's metrics, and the comparison of those that finished."""
    assert command("train", "-m", *TINY, "seed=0,-1,1") == 2
    output = capfd.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("patchwork train: seed=-1 is not allowed")
    assert [job["status"] for job in read_jobs(tmp_path)] == ["finished", "failed (2)", "finished"]
    manifests = read_manifests(tmp_path)
    assert [manifest["seed"] for manifest in manifests] == [0, 1]
    assert len(list((tmp_path / RUNS).iterdir())) == 2
    rows = parse_table(output.out, "job", "seed", "status", "run_dir")
    assert [(row["job"], row["seed"], row["status"]) for row in rows] == [
        ("0", "0", "finished"),
        ("1", "-1", "failed (2)"),
        ("2", "1", "finished"),
    ]
    for row, manifest in zip((rows[0], rows[2]), manifests, strict=True):
        for name in ("val/sequence_accuracy", "test/loss"):
            assert row[name] == f"{manifest['metrics'][name]:.4f}"
        assert row["run_dir"].startswith(RUNS)
    assert rows[1]["test/loss"] == rows[1]["run_dir"] == ""
    (means,) = parse_table(output.out, "setting", "verdict")
    values = [manifest["metrics"]["test/sequence_accuracy"] for manifest in manifests]
    assert means["runs"] == "2"
    assert means["sequence_accuracy"] == f"{sum(values) / 2:.4f}"
    assert "2 of 3 jobs finished" in output.out

    assert command("train", "-m", *TINY, "seed=1", "resume=auto") == 0
    again = capfd.readouterr().out
    assert "nothing to resume" in again
    (row,) = parse_table(again, "job", "status", "run_dir")
    assert row == {"job": "0", **{name: cell for name, cell in rows[2].items() if name not in ("job", "seed")}}
    assert read_manifests(tmp_path) == manifests


def test_sweep_dir_can_be_used_again(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str], fake_jobs: None
) -> None:
    sweep_dir = tmp_path / "again"
    sweep_dir.mkdir()
    (sweep_dir / multirun.STOP).write_text("2")
    write_json(sweep_dir / "7.json", {"job": 7, "overrides": [], "status": "skipped"})
    for name in ("2024-notes.json", "notes.json"):  # files of the user
        write_json(sweep_dir / name, {"mine": True})
    assert command("train", "-m", *TINY, "seed=0", f"hydra.sweep.dir={sweep_dir}") == 0
    assert "1 of 1 jobs finished" in capfd.readouterr().out
    assert read_json(sweep_dir / "2024-notes.json") == read_json(sweep_dir / "notes.json") == {"mine": True}
    (tmp_path / "file").write_text("")
    assert command("train", "-m", *TINY, "seed=0", f"hydra.sweep.dir={tmp_path}/file/below") == 5
    (line,) = capfd.readouterr().err.splitlines()
    assert "cannot be read or written: Not a directory" in line


@pytest.mark.usefixtures("late_check")
def test_exit_code_is_that_of_the_first_job_that_failed(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str], fake_jobs: None
) -> None:
    assert command("train", "-m", *TINY, "seed=0,-1,-2,1") == 2
    output = capfd.readouterr().out
    assert [job["status"] for job in read_jobs(tmp_path)] == ["finished", "failed (2)", "failed (2)", "finished"]
    assert "job 1: seed is not allowed" in output
    assert "2 of 4 jobs finished" in output
    assert "resume=auto" not in output  # which cannot help


PLAIN = ["hydra.mode=RUN", "hydra.run.dir=."]
SEEDS = "# @package _global_\nhydra: {mode: MULTIRUN, run: {dir: elsewhere}, sweeper: {params: {seed: '0,1'}}}\n"


@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_experiment_is_a_multirun(command: Command, tmp_path: Path, fake_jobs: list, flags: list[str]) -> None:
    """Each of its jobs is a plain run, though it reads the same file."""
    conf = tmp_path / "my conf"
    (conf / "experiment").mkdir(parents=True)
    (conf / "experiment" / "seeds.yaml").write_text(SEEDS)
    args = [f"--config-dir={conf}", "experiment=seeds"]
    assert command("train", *args, *flags) == 0
    assert fake_jobs == [[args[0], f"seed={seed}", args[1], *PLAIN] for seed in (0, 1)]
    assert [job["status"] for job in read_jobs(tmp_path)] == ["finished", "finished"]


@pytest.mark.parametrize("args", [["hydra.mode=MULTIRUN", "seed=0,1"], ["seed=0,1", "-m", "task=sum"]])
def test_multirun_is_asked_for_anywhere(command: Command, fake_jobs: list, args: list[str]) -> None:
    assert command("train", *args) == 0
    assert [job[0] for job in fake_jobs] == ["seed=0", "seed=1"]
    assert all(job[-2:] == PLAIN for job in fake_jobs)


def test_sweep_subdir_is_the_run_directory_of_a_job(
    command: Command, tmp_path: Path, fake_jobs: list, capfd: pytest.CaptureFixture[str]
) -> None:
    args = ["hydra.sweep.dir=my runs (1)", "hydra.sweep.subdir=${hydra.job.override_dirname}", "hydra.job.name=mine"]
    assert command("train", "-m", *args, "seed=0,1") == 0
    job = ["seed=0", "run_dir='my runs (1)/seed=0'", "hydra.job.name=mine", *PLAIN]
    assert fake_jobs[0] == job
    assert read_json(tmp_path / "my runs (1)" / "1.json")["status"] == "finished"
    assert "saved in my runs (1)" in capfd.readouterr().out


def test_words_reach_the_jobs_as_they_were_typed(command: Command, fake_jobs: list) -> None:
    assert command("train", "-m", "run_dir=runs/lr=0.1 ü,b (1)", "dataset.root=~/x", "seed=0") == 0
    run_dirs = [parse_overrides(job[:1])["run_dir"] for job in fake_jobs]
    assert run_dirs == ["runs/lr=0.1 ü", "b (1)"]
    assert [parse_overrides(job[1:2]) for job in fake_jobs] == 2 * [{"dataset.root": "~/x"}]


def test_multirun_that_cannot_be_composed_leaves_nothing(
    command: Command, tmp_path: Path, fake_jobs: list, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command("train", "-m", "nonsense=1,2") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "nonsense" in line
    assert fake_jobs == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("params", "args", "words"),
    [
        ("{run_dir: 'm (1),b=c'}", [], [["run_dir='m (1)'"], ["run_dir='b=c'"]]),
        ("{run_dir: 'm (1),b=c'}", ["run_dir=x"], [["run_dir=x"]]),  # the command line is stronger
        ("{'~logger': '', seed: '0,1'}", [], [["logger=none", "seed=0"], ["logger=none", "seed=1"]]),
    ],
)
def test_parameters_of_a_file_are_read_as_if_they_were_typed(
    command: Command, tmp_path: Path, fake_jobs: list, params: str, args: list[str], words: list[list[str]]
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        f"# @package _global_\nhydra: {{sweeper: {{params: {params}}}}}\n"
    )
    assert command("train", "-m", f"--config-dir={tmp_path}", "experiment=mine", *args) == 0
    assert [[word for word in job[1:-2] if word != "experiment=mine"] for job in fake_jobs] == words


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["seed=glob(*)"], "seed=glob(*) matches no choice"),
        (["model=glob(zz*)"], "model=glob(zz*) matches no choice"),
        (["seed=range(0,0)"], "seed=range(0,0) has no values"),
        (["seed=interval(0,1)"], "search with patchwork sweep"),
        (["seed=0,-1"], "seed=-1 is not allowed"),
        (["model=glob(*)", "seed=-1"], "does not fit task=seq2seq"),
        (["run_dir=???", "seed=0,1"], "run_dir=??? is not allowed"),
        (["run_dir=one", "seed=0,1"], "run_dir=one is one directory for 2 jobs: use hydra.sweep.dir=…"),
        (
            ["optimizer.lr=0.01,-1"],
            "job 1 (optimizer.lr=-1): optimizer.lr=-1 is not allowed: it must be a positive number",
        ),
        (["hydra.verbose=1,2"], "hydra.verbose=1,2 lists several values: a key of Hydra has one"),
        (["experiment=wrong"], "optimzer.lr=0.1 is not a key of the configuration (did you mean optimizer.lr=0.1?)"),
    ],
)
def test_no_job_starts_if_one_is_hopeless(
    command: Command, tmp_path: Path, fake_jobs: list, capfd: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    wrong = "# @package _global_\nhydra: {sweeper: {params: {optimzer.lr: '0.1,0.2'}}}\n"
    (tmp_path / "conf" / "experiment" / "wrong.yaml").write_text(wrong)
    assert command("train", "-m", "--config-dir=conf", *args) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert fake_jobs == []
    assert [path.name for path in tmp_path.iterdir()] == ["conf"]


@pytest.mark.parametrize(
    ("job", "resumable"),
    [
        ({"status": "finished", "exit_code": 0}, False),
        ({"status": "failed (2)", "exit_code": 2}, False),
        ({"status": "failed (3)", "exit_code": 3}, False),
        ({"status": "exited early", "exit_code": 1}, False),
        ({"status": "failed (4)", "exit_code": 4}, True),
        ({"status": "failed (5)", "exit_code": 5}, True),
        ({"status": "lost"}, True),
        ({"status": "stopped by SIGTERM", "exit_code": 143}, True),
        ({"status": "skipped"}, True),
    ],
)
def test_resuming_is_advised_where_it_can_help(job: dict[str, Any], resumable: bool) -> None:
    assert multirun.is_resumable(job) is resumable


def test_job_without_a_status_file_has_failed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "0.json", {"job": 0, "overrides": ["seed=0"], "status": "finished", "exit_code": 0})
    assert multirun.print_summary(tmp_path, [["seed=0"], ["seed=1"]]) == 1
    output = capfd.readouterr().out
    assert [row["status"] for row in parse_table(output, "job", "seed", "status")] == ["finished", "lost"]
    assert "1 of 2 jobs finished" in output


@pytest.mark.slow
@needs_proc
def test_killed_and_stopped_jobs_can_be_resumed(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    process = start_multirun(*LONG, "seed=0,1,2", "resume=auto", cwd=tmp_path)
    wait_until(lambda: has_checkpoint(0, tmp_path), process)
    (job,) = children(process.pid)
    os.kill(job, signal.SIGKILL)
    wait_until(lambda: has_checkpoint(1, tmp_path), process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert [job["status"] for job in read_jobs(tmp_path)] == ["stopped by SIGKILL", "stopped by SIGINT", "skipped"]
    assert "0 of 3 jobs finished" in output
    assert "the same command with resume=auto runs the missing ones" in output
    capfd.readouterr()
    assert command("train", "-m", *LONG, "seed=0,1", "resume=auto") == 0
    output = capfd.readouterr().out
    assert ["resumed" in manifest for manifest in read_manifests(tmp_path)] == [True, True]
    assert "2 of 2 jobs finished" in output


@pytest.mark.slow
@needs_proc
def test_job_stops_when_its_leader_is_killed(tmp_path: Path) -> None:
    process = start_multirun(*LONG, "trainer.max_epochs=100", "seed=0,1", cwd=tmp_path)
    wait_until(lambda: has_checkpoint(0, tmp_path), process)
    (job,) = children(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{job}/cmdline").exists() and Path(f"/proc/{job}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (manifest,) = read_manifests(tmp_path)
    assert manifest["status"].startswith("Interrupted: stopped by SIGTERM; its state is saved")


# --- launchers -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("late_check")
def test_parallel_jobs_share_the_cores(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert command("train", "-m", *TINY, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,-1") == 2
    output = capfd.readouterr().out
    assert [job["status"] for job in read_jobs(tmp_path)] == ["finished", "failed (2)"]
    assert [run["hardware"]["threads"] for run in read_manifests(tmp_path)] == [max(joblib.cpu_count() // 2, 1)]
    assert "1 of 2 jobs finished" in output
    assert "job 1: seed=-1 is not allowed" in output
    (log,) = tmp_path.glob("outputs/multirun/*/0.log")
    assert "test metrics on" in log.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("late_check")
def test_submitit_runs_the_jobs(command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    assert command("train", "-m", *TINY, "hydra/launcher=submitit_local", "seed=0,-1") == 2
    assert [job["status"] for job in read_jobs(tmp_path)] == ["finished", "failed (2)"]
    assert "1 of 2 jobs finished" in capfd.readouterr().out


def test_submitit_is_configured_for_slurm() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    GlobalHydra.instance().clear()
    overrides = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.cpus_per_task=4"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides, return_hydra_config=True)
    launcher = instantiate(config.hydra.launcher, submitit_folder="jobs", name="train")
    assert launcher._EXECUTOR == "slurm"
    assert (launcher.params["partition"], launcher.params["cpus_per_task"]) == ("gpu", 4)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_job_of_several_processes_is_refused(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    monkeypatch.setenv(JOB, str(tmp_path / "0.json"))
    assert command("train", *TINY, "optimizer=adamw", f"accelerator={strategy}") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"trainer.strategy={strategy} cannot be used with -m" in line
    assert "start each run with a command of its own" in line
    assert read_json(tmp_path / "0.json") == {"error": line.removeprefix("train.py: ")}


# --- one job ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "parent", "signum"),
    [(signal.SIGINT, None, signal.SIGINT), (None, 0, signal.SIGTERM), (None, os.getppid(), None), (None, None, None)],
)
def test_job_gets_the_signal_that_stops_all_jobs(
    tmp_path: Path, stop: int | None, parent: int | None, signum: int | None
) -> None:
    """Or SIGTERM when its parent has ended: 0 is never the parent."""
    if stop:
        (tmp_path / multirun.STOP).write_text(str(int(stop)))
    with subprocess.Popen(["sleep", "0.3" if signum is None else "60"], preexec_fn=setup_child) as job:
        assert multirun.wait(job, tmp_path, parent) == (0 if signum is None else -signum)


# A job that saves for half a minute at the first signal, and ends at a second SIGINT.
SAVING_JOB = """
import os, signal, sys, time
received = []
def handle(signum, frame):
    if received and signum == signal.SIGINT:
        os._exit(130)
    received.append(signum)
for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(signum, handle)
sys.stdout.write("ready")
sys.stdout.flush()
deadline = time.monotonic() + {seconds}
while not received or (time.monotonic() < deadline and received[0] != signal.SIGHUP):
    time.sleep(0.01)
sys.exit(128 + received[0])
"""


def start_saving_job(seconds: float) -> subprocess.Popen:
    script = SAVING_JOB.format(seconds=seconds)
    job = subprocess.Popen([sys.executable, "-S", "-c", script], stdout=subprocess.PIPE)
    assert job.stdout is not None
    assert job.stdout.read(5) == b"ready"
    return job


@pytest.mark.parametrize("repeat", [signal.SIGHUP, signal.SIGTERM])
def test_repeated_signal_does_not_stop_a_job_that_saves(tmp_path: Path, repeat: signal.Signals) -> None:
    """As the end of a terminal sends SIGHUP twice; the job gets the first."""
    stopper = multirun.JobStopper(tmp_path, is_sequential=True)
    stopper(signal.SIGHUP, None)
    stopper(repeat, None)
    with start_saving_job(0) as job:
        assert multirun.wait(job, tmp_path, None) == 128 + signal.SIGHUP
    assert [path.name for path in tmp_path.iterdir()] == [multirun.STOP]


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_second_interrupt_ends_a_job_at_once(tmp_path: Path, first: signal.Signals) -> None:
    stopper = multirun.JobStopper(tmp_path, is_sequential=True)
    for signum in (first, signal.SIGINT, signal.SIGINT):
        stopper(signum, None)
    start_time = time.monotonic()
    with start_saving_job(30) as job:
        assert multirun.wait(job, tmp_path, None) == 130
    assert time.monotonic() - start_time < 10


def test_job_that_does_not_react_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multirun, "END_SECONDS", 0.05)
    script = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('ready', flush=True); time.sleep(30)"
    )
    with subprocess.Popen([sys.executable, "-S", "-c", script], stdout=subprocess.PIPE) as job:
        assert job.stdout is not None
        job.stdout.readline()
        assert multirun.end(job) == -signal.SIGKILL


def test_launcher_that_waits_is_left_at_a_second_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not before the status of jobs that run is known."""
    write_json(tmp_path / "0.json", {"job": 0, "overrides": [], "status": "running"})
    stopper = multirun.JobStopper(tmp_path, is_sequential=False)
    end_job = {"status": "stopped by SIGINT"}
    monkeypatch.setattr(multirun.time, "sleep", lambda seconds: write_json(tmp_path / "0.json", end_job))
    stopper(signal.SIGHUP, None)
    stopper(signal.SIGTERM, None)
    with pytest.raises(Interrupted):
        stopper(signal.SIGINT, None)
    assert read_json(tmp_path / "0.json") == end_job
    stopper(signal.SIGINT, None)


@pytest.mark.parametrize(
    ("code", "job", "status", "exit_code"),
    [
        (0, {"done": True}, "finished", 0),
        (0, {}, "exited early", 1),
        (3, {}, "failed (3)", 3),
        (-9, {}, "stopped by SIGKILL", 137),
        (130, {}, "stopped by SIGINT", 130),
    ],
)
def test_job_outcome(code: int, job: dict[str, Any], status: str, exit_code: int) -> None:
    assert multirun.job_outcome(code, job) == {"status": status, "exit_code": exit_code}


def test_summary_has_a_column_for_each_override_that_varies() -> None:
    common = {"status": "finished", "seconds": 1.0}
    lines = multirun.summary(
        [
            {"job": 0, "overrides": ["task=sum", "model=a", "seed=0"], **common},
            {"job": 1, "overrides": ["task=sum", "model=b", "seed=0"], **common, "error": "why"},
        ]
    ).splitlines()
    assert [line.split() for line in lines] == [
        ["job", "model", "status", "seconds", "run_dir"],
        ["0", "a", "finished", "1.0"],
        ["1", "b", "finished", "1.0"],
        ["job", "1:", "why"],
    ]


def test_launcher_that_starts_no_job_fails(
    command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_cluster(*_: object) -> None:
        raise RuntimeError('Could not detect "srun"')

    monkeypatch.setattr(multirun, "run_job", no_cluster)
    assert command("train", "-m", *TINY, "seed=0,1") == 5
    captured = capfd.readouterr()
    assert "the launcher lost a job: Could not detect" in captured.err
    assert "0 of 2 jobs finished" in captured.out
