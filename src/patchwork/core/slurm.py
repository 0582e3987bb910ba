"""What SLURM says about this process, read from the environment alone; and how to ask it for another turn."""

import os
import re
import subprocess

INTERACTIVE = ("bash", "interactive")  # names of jobs that are a shell, as Lightning has them
REQUEUE_SECONDS = 30  # to wait for scontrol


def num_tasks() -> int:
    """Return how many tasks SLURM has promised to start together with this process: 1 outside of SLURM.

    A shell in an allocation is no task, though SLURM_NTASKS is set there.
    """
    count, rank = (os.environ.get(name, "") for name in ("SLURM_NTASKS", "SLURM_PROCID"))
    if os.environ.get("SLURM_JOB_NAME") in INTERACTIVE or not (count.isdecimal() and rank.isdecimal()):
        return 1
    return max(int(count), 1)


def srun_started_others() -> bool:
    """Return whether other tasks certainly exist; a batch script sees the same variables as srun's first task."""
    in_step = os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1"
    return num_tasks() > 1 and (in_step or os.environ["SLURM_PROCID"] != "0")


def requeue() -> str | None:
    """Ask SLURM to put this job back into the queue, and return what came of it; None outside of a job."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
    if not re.fullmatch(r"[0-9]+(_[0-9]+)?", job):
        return None
    try:
        result = subprocess.run(
            ["scontrol", "requeue", job], stdin=subprocess.DEVNULL, capture_output=True, timeout=REQUEUE_SECONDS
        )
    except FileNotFoundError:
        return f"job {job} is not requeued: there is no scontrol here"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"job {job} is not requeued: {error}"
    reason = b" ".join(result.stderr.split()).decode(errors="replace") or f"scontrol exited with {result.returncode}"
    return f"job {job} is requeued" if result.returncode == 0 else f"job {job} is not requeued: {reason}"
