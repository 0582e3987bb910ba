"""The status file of a multirun's job: `<index>.json` in the directory of the multirun."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from patchwork.core.atomic import write_bytes
from patchwork.core.errors import ResourceError

JOB = "PATCHWORK_JOB"  # passes the path of its status file to a job


def update_job_status(**facts: Any) -> None:
    """Add facts to the status file of this job, if this process is one; a job goes on where that cannot be written."""
    if JOB in os.environ:
        path = Path(os.environ[JOB])
        with suppress(ResourceError):
            write_json(path, {**read_json(path), **facts})


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; empty if the file is missing or damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())
