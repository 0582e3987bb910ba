"""Several runs answer as one: the mean of their probabilities, for every task that has such."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY
from torch import Tensor, nn

from patchwork.models.ensemble import Detectors, Ensemble, Readers, mean_of_laws
from patchwork.run import Run

SHORT = ["digits=uci", "callbacks=none", "data.batch_size=8", "data.eval_batch_size=16", "trainer.max_epochs=1"]
LIMIT = ["trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]


class Says(nn.Module):
    def __init__(self, said: Tensor) -> None:
        super().__init__()
        self.said = said

    def forward(self, image: Tensor) -> Tensor:
        return self.said


def test_probabilities_are_averaged() -> None:
    one, other = torch.randn(2, 5, 3)
    together = Ensemble([Says(one), Says(other)], lambda said: mean_of_laws(said.log_softmax(dim=-1)))
    expected = (one.softmax(-1) + other.softmax(-1)) / 2
    torch.testing.assert_close(together(one).exp(), expected)


@pytest.mark.parametrize("task", ["classify", "sum", "sum model=sequence_regressor", "anchor", "icons", "seq2seq"])
def test_a_run_with_itself_is_itself(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], task: str
) -> None:
    assert command("train", f"task={task.split()[0]}", *task.split()[1:], *SHORT, *LIMIT, "folder=one") == 0
    capsys.readouterr()
    assert command("evaluate", "run=[one,one]") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    manifest = Run.load("one").manifest["metrics"]
    measured = {words[0]: float(words[1]) for words in lines if words[0] in manifest}
    assert measured == pytest.approx({name: manifest[name] for name in measured}, abs=2e-5)
    assert set(measured) == {name for name in manifest if name.startswith("test/")}


def test_members_write_together(command: Callable[..., int]) -> None:
    for seed in (0, 1):
        assert command("train", *TINY, f"seed={seed}", f"folder=run{seed}") == 0
    models = [Run.load(f"run{seed}").model for seed in (0, 1)]
    image = torch.randn(4, 1, 56, 56)
    together = Readers(models)  # type: ignore[arg-type]
    written = together.generate(image)
    start = torch.full((4, 1), together.start)
    for place in range(written.shape[1]):
        read = torch.cat([start, written[:, :place]], dim=1)
        laws = torch.stack([model(image, read)[:, -1].softmax(-1) for model in models]).mean(0)
        going = written[:, place - 1] != together.finish if place else torch.ones(4, dtype=torch.bool)
        assert (laws.argmax(-1) == written[:, place])[going].all()


def test_detectors_average_where_they_look() -> None:
    class Looks(Says):
        def locate(self, image: Tensor) -> tuple[Tensor, Tensor]:
            return self.said, torch.ones(2, 3) * self.said[:, None]

    both = Detectors([Looks(torch.tensor([1.0, 2.0])), Looks(torch.tensor([3.0, 4.0]))], lambda said: said.mean(0))
    said, attention = both.locate(torch.zeros(2))
    assert said.tolist() == [2.0, 3.0]
    assert attention[:, 0].tolist() == [2.0, 3.0]


def test_runs_that_do_not_go_together(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("train", *TINY, "folder=one") == 0
    assert command("train", *TINY, "data.test_size=16", "folder=fewer") == 0
    assert command("train", "task=classify", *SHORT, *LIMIT, "folder=other") == 0
    assert command("train", "task=pixels", "model=pixel_decoder_tiny", *SHORT, *LIMIT, "folder=drawn") == 0
    capsys.readouterr()
    for words, said in (
        (["run=[one,fewer]"], "run=fewer is measured on other samples than one"),
        (["run=[one,other]"], "run=other is of another task than one"),
        (["run=[drawn,drawn]"], "task=Pixels evaluates one run at a time"),
        (["run=[one,one]", "judge=other"], "leave judge away"),
        (["run=[]"], "run=[] is not allowed"),
        (["run=[1]"], "run=[1] is not allowed"),
    ):
        assert command("evaluate", *words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert not Path("outputs").exists()
