"""Train the weights that come with the package, and write them into it: `make weights`."""

import sys
from pathlib import Path

from patchwork.core.errors import PatchworkError
from patchwork.core.overrides import shell_command
from patchwork.core.subprocesses import start
from patchwork.export.weights import write_weights
from patchwork.runs.manifest import read_manifest
from patchwork.runs.run import Run
from patchwork.runs.weights import SHIPPED

RUNS = Path("outputs", "weights_runs")
RECIPES = {
    "seq2seq": ["dataset=mnist"],
    "seq2seq_patches": ["experiment=seq2seq_patches", "dataset=mnist"],
    "classify": ["task=classify", "dataset=mnist"],
    "sum": ["task=sum", "dataset=mnist"],
    "anchor": ["task=anchor", "dataset=mnist"],
    "icons": ["task=icons"],
    "pixels": ["task=pixels", "dataset=mnist"],
}


def main(names: list[str]) -> int:
    """Train and write the weights of these names, or of all; finished runs are not trained again."""
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        print(f"{unknown[0]} is not allowed: use {', '.join(RECIPES)}", file=sys.stderr)
        return 2
    for name in names or RECIPES:
        run_dir, overrides = RUNS / name, [*RECIPES[name], "seed=0"]
        if read_manifest(run_dir).get("status") != "finished":
            started = (run_dir / "checkpoints").exists()
            action = [f"resume={run_dir}"] if started else [*overrides, f"run_dir={run_dir}"]
            if code := start("train", action, {}).wait():
                return code
        try:
            write_weights(Run.load(run_dir), SHIPPED / name, command=shell_command("train", *overrides))
        except PatchworkError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return error.exit_code
        print(f"{SHIPPED / name}: {sum(path.stat().st_size for path in (SHIPPED / name).iterdir()) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
