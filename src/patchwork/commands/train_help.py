"""The help of `patchwork train`: groups and choices, which models fit which task, and the keys of the top level."""

from patchwork.core.conf_files import PACKAGED_GROUPS, comments, group_choices, read_yaml
from patchwork.core.hydra_flags import config_dirs
from patchwork.runs.compose import CONF_DIR
from patchwork.runs.fitting import fitting_models

WIDTH = 112
INTERNAL_GROUPS = ("recipe", "trainer")  # of which there is nothing to choose
USAGE = """Train a task, or resume a run.

  patchwork train [group=choice …] [key=value …]        (python train.py … is the same)
  patchwork train task=sum dataset=uci optimizer.lr=0.01 trainer.max_epochs=3
"""
MORE = """What a group, a choice or a key is, what it may be and what it is now, in the configuration of a task, too:

  patchwork explain optimizer            patchwork explain optimizer=adamw
  patchwork explain optimizer.lr         patchwork explain data.num_classes task=sum
  patchwork train task=sum --cfg job     prints a whole configuration

Several runs: -m seed=0,1,2 trains one after the other and prints a table of them. With resume=auto it trains only
the missing ones.

  hydra/launcher=joblib hydra.launcher.n_jobs=2     two in parallel, which share the cores
  hydra/launcher=submitit_slurm hydra.launcher.partition=… hydra.launcher.cpus_per_task=4     on a SLURM cluster
  hydra/launcher=submitit_local                     the same on this machine"""


def train_help(args: list[str]) -> str:
    """Return the help; `--config-dir` among the arguments adds choices."""
    choices = group_choices([CONF_DIR, *config_dirs(args)])
    shown = [group for group in choices if group not in INTERNAL_GROUPS]
    sections = [
        USAGE,
        "Groups and their choices:\n",
        *(wrap(f"  {PACKAGED_GROUPS.get(group, group)}: ", choices[group]) for group in shown),
        "\nModels that fit each task:\n",
        *(wrap(f"  {task}: ", fitting_models(task)) for task in group_choices([CONF_DIR])["task"]),
        "\nKeys of the top level; those of a group are set as group.key=value:\n",
        *top_level_keys(),
        f"\n{MORE}",
    ]
    return "\n".join(sections)


def wrap(start: str, names: list[str]) -> str:
    """Return names behind a start, in lines of at most `WIDTH` characters."""
    lines = [start]
    for index, name in enumerate(names):
        word = f"{name}, " if index < len(names) - 1 else name
        if len(lines[-1]) + len(word.rstrip()) > WIDTH:
            lines.append(" " * 6)
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines)


def top_level_keys() -> list[str]:
    """Return a line for each key of the top level: its default, and its sentence, which is the comment in the file."""
    path = CONF_DIR / "train.yaml"
    sentences = comments(path)
    values = {key: value for key, value in read_yaml(path).items() if key not in ("defaults", "hydra")}
    texts = {key: f"  {key}={'null' if value is None else value}" for key, value in values.items()}
    width = max(map(len, texts.values())) + 2
    return [f"{texts[key]:<{width}}{sentences.get(key, '')}".rstrip() for key in values]
