"""Arguments that are written as another tool has them are answered with what to write here."""

import pytest

from patchwork.core.hydra_errors import option_style_faults

KNOWN = ["seed", "run_dir", "optimizer.lr", "trainer.max_epochs", "data.batch_size"]
CHOICES = {"task": ["sum", "icons"], "stem": ["conv3", "linear"]}


@pytest.mark.parametrize(
    ("args", "advice"),
    [
        ("--lr 0.1", ["--lr 0.1 is not an option of this command: write optimizer.lr=0.1"]),
        ("--batch-size=8 seed=1", ["--batch-size=8 is not an option of this command: write data.batch_size=8"]),
        ("--seed", ["--seed is not an option of this command: write seed=true"]),
        ("--zzz", ["--zzz is not an option of this command: write key=value"]),
        ("--lr --seed 3", ["write optimizer.lr=true", "--seed 3 is not an option of this command: write seed=3"]),
        ("--ckpt_path x.ckpt", ["--ckpt_path x.ckpt is not an option of this command: use resume=PATH to continue"]),
        ("-x 1", ["-x 1 is not an option of this command: write key=1"]),
        ("lr = 0.1", ["lr = 0.1 is not allowed: write lr=0.1, without spaces"]),
        ("seed 3 task=sum", ["seed 3 is not allowed: write seed=3"]),
        ("sum", ["'sum' is not allowed: use group=choice and key=value (did you mean task=sum?)"]),
        ("linear", ["(did you mean stem@model.stem=linear?)"]),
        ("nonsense task=sum", ["'nonsense' is not allowed: use group=choice and key=value"]),
        ("-m seed=1,2 ~logger --cfg job --config-name train", []),
        ("--config-dir", []),
    ],
)
def test_options_of_other_tools(args: str, advice: list[str]) -> None:
    faults = [str(fault) for fault in option_style_faults(args.split(), KNOWN, CHOICES)]
    assert len(faults) == len(advice)
    for fault, expected in zip(faults, advice, strict=True):
        assert expected in fault
