"""Reading grids as sequences: metrics as plain counts of greedy reading, samples, and what is refused at once."""

import math
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from patchwork.errors import ConfigError, NumericError
from patchwork.models import EncoderDecoder, Quadrant
from patchwork.optim import adamw, constant
from patchwork.tasks import Seq2Seq

CLASSES, ROWS, COLS, CELL = 5, 2, 3, 2
SIZES = {"rows": ROWS, "cols": COLS, "cell_size": CELL, "num_classes": CLASSES, "patch_size": CELL, "stem": []}
pytestmark = pytest.mark.filterwarnings("ignore:.*(does not have many workers|no `val_dataloader`)")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Scripted(EncoderDecoder):
    """Says by greedy decoding what is written in the image, and is sure of the truth as long as it is given it."""

    def encode(self, image: Tensor) -> Tensor:
        return image

    def decode(self, memory: Tensor, tokens: Tensor, caches: Any = None) -> Tensor:
        target = F.pad(tokens[:, 1:], (0, 1), value=self.finish)
        return 50 * F.one_hot(target, CLASSES + 2).float() + 0 * self.head.bias

    def greedy(self, memory: Tensor) -> Tensor:
        return memory[:, 0, ::CELL, ::CELL].flatten(1).round().long()


def model(kind: type[EncoderDecoder] = EncoderDecoder) -> EncoderDecoder:
    return kind(**SIZES, embed_dim=8, num_heads=2)


def task(network: nn.Module, monitor: str = "val/loss") -> Seq2Seq:
    optimizer = partial(adamw, lr=0.01, betas=[0.9, 0.99], weight_decay=0.1)
    return Seq2Seq(model=network, optimizer=optimizer, scheduler=constant, monitor=monitor)


def grids(count: int) -> Tensor:
    return torch.randint(CLASSES, (count, ROWS * COLS))


def written(tokens: Tensor) -> Tensor:
    """Write tokens (B, T) into images (B, 1, height, width), one to a cell."""
    cells = tokens.float().view(-1, 1, ROWS, COLS)
    return cells.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)


def trainer(**options: Any) -> pl.Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return pl.Trainer(accelerator="cpu", devices=1, **{**dict.fromkeys(quiet, False), **options})


def loader(batches: list[dict[str, Tensor]]) -> DataLoader:
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


# --- metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("sizes", [[7, 7, 2], [1, 9], [5]])
def test_metrics_are_plain_counts_over_uneven_batches(split: str, sizes: list[int]) -> None:
    truth = grids(sum(sizes))
    said = torch.where(torch.rand(truth.shape) < 0.8, truth, grids(len(truth)))
    said[0], said[1:2, 3:] = truth[0], CLASSES + 1  # one all right, one finished too early
    batches = [
        {"image": written(some), "digits": digits}
        for some, digits in zip(said.split(sizes), truth.split(sizes), strict=True)
    ]
    run = trainer().validate if split == "val" else trainer().test
    (found,) = run(task(Scripted(**SIZES)), loader(batches), verbose=False)
    pairs = list(zip(said.tolist(), truth.tolist(), strict=True))
    expected = {
        "sequence_accuracy": sum(a == b for a, b in pairs) / len(pairs),
        "digit_accuracy": sum(x == y for a, b in pairs for x, y in zip(a, b, strict=True)) / truth.numel(),
    }
    for cell in range(ROWS * COLS):
        right = sum(a[cell] == b[cell] for a, b in pairs)
        expected[f"cell_accuracy/{cell // COLS}_{cell % COLS}"] = right / len(pairs)
    for name, value in expected.items():
        assert found[f"{split}/{name}"] == pytest.approx(value, abs=1e-6), name
    assert set(found) - {"epoch", "step"} == {f"{split}/{name}" for name in [*expected, "loss"]}


def test_the_loss_is_the_mean_over_all_samples_and_tokens() -> None:
    """Batches of different sizes count by their size; `<finish>` is one of the tokens."""
    network, sizes = model().eval(), [6, 1]
    nn.init.normal_(network.head.weight)
    truth, image = grids(7), torch.randn(7, 1, ROWS * CELL, COLS * CELL)
    (found,) = trainer().validate(
        task(network),
        loader([{"image": i, "digits": d} for i, d in zip(image.split(sizes), truth.split(sizes), strict=True)]),
        verbose=False,
    )
    total = 0.0
    with torch.no_grad():
        for picture, digits in zip(image, truth.tolist(), strict=True):
            for place, token in enumerate([*digits, network.finish]):
                read = torch.tensor([[network.start, *digits[:place]]])
                total -= network(picture[None], read)[0, -1].log_softmax(-1)[token].item()
    assert found["val/loss"] == pytest.approx(total / (7 * (ROWS * COLS + 1)), rel=1e-5)


def test_teacher_forcing_does_not_flatter() -> None:
    truth = grids(6)
    (found,) = trainer().validate(
        task(Scripted(**SIZES)),
        loader([{"image": written((truth + 1) % CLASSES), "digits": truth}]),
        verbose=False,
    )
    assert found["val/loss"] < 1e-6
    assert found["val/digit_accuracy"] == found["val/sequence_accuracy"] == 0


def test_an_evaluation_begins_anew() -> None:
    truth, one, runner = grids(4), task(Scripted(**SIZES)), trainer()
    for said, expected in [(truth, 1.0), ((truth + 1) % CLASSES, 0.0)]:
        (found,) = runner.validate(one, loader([{"image": written(said), "digits": truth}]), verbose=False)
        assert found["val/sequence_accuracy"] == expected


@pytest.mark.parametrize("kind", [EncoderDecoder, Quadrant])
def test_it_begins_at_the_loss_of_a_guess_and_learns(kind: type[EncoderDecoder]) -> None:
    truth = grids(32)
    batch = {"image": written(truth) - 2, "digits": truth}
    one = task(model(kind))
    assert one.step(batch, "train").item() == pytest.approx(math.log(CLASSES + 2), abs=1e-5)
    trainer(max_steps=30, limit_val_batches=0).fit(one, loader([batch] * 30))
    assert one.step(batch, "train").item() < 0.8 * math.log(CLASSES + 2)


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "expected"), [(2, 2), (3, 3), (10, 3)])
def test_samples_say_what_was_expected_and_what_was_said(count: int, expected: int) -> None:
    truth = torch.tensor([[0, 1, 2, 3, 4, 0], [4, 4, 4, 4, 4, 4], [1, 2, 1, 2, 1, 2]])
    said = torch.tensor([[0, 1, 2, 3, 4, 0], [4, 3, 6, 6, 6, 6], [5, 2, 1, 2, 1, 6]])
    samples = task(Scripted(**SIZES)).samples({"image": written(said), "digits": truth}, count)
    assert ["".join(sample.expected) for sample in samples] == ["012340", "444444", "121212"][:expected]
    assert ["".join(sample.predicted) for sample in samples] == ["012340", "43$$$$", "^2121$"][:expected]
    for sample in samples:
        assert (sample.rows, sample.cols) == (ROWS, COLS)
        assert sample.image.shape == (1, ROWS * CELL, COLS * CELL)
        assert sample.image.min() >= 0
        assert sample.image.max() <= 1


def test_a_blank_image_can_be_looked_at() -> None:
    (sample,) = task(model()).samples({"image": torch.zeros(1, 1, ROWS * CELL, COLS * CELL), "digits": grids(1)}, 1)
    assert sample.image.isfinite().all()


# --- what is refused -------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1)


class Renamed(EncoderDecoder):
    """Has all the methods, but its `decode` takes its arguments the other way round."""

    def decode(self, tokens: Tensor, memory: Tensor) -> Tensor:  # type: ignore[override]
        return super().decode(memory, tokens)


@pytest.mark.parametrize("network", [Classifier(), nn.Linear(2, 2), nn.Identity(), model(Renamed)])
def test_a_model_that_does_not_fit_is_refused_in_one_line(network: nn.Module) -> None:
    with pytest.raises(ConfigError, match=rf"^[^\n]*{type(network).__name__}[^\n]*Seq2Seq[^\n]*\([^\n]*\)$"):
        task(network)


@pytest.mark.parametrize("kind", [EncoderDecoder, Quadrant, Scripted])
def test_models_that_fit_are_accepted(kind: type[EncoderDecoder]) -> None:
    Seq2Seq.check_fit(kind)


@pytest.mark.parametrize("monitor", ["val/nonsense", "test/loss", "loss", "val/cell_accuracy", ""])
def test_a_monitor_that_is_not_measured_is_refused(monitor: str) -> None:
    with pytest.raises(ConfigError, match=rf"^task\.monitor={monitor} [^\n]*val/loss[^\n]*$"):
        task(model(), monitor)


def test_all_that_is_measured_can_be_monitored() -> None:
    truth = grids(2)
    (found,) = trainer().validate(
        task(Scripted(**SIZES)), loader([{"image": written(truth), "digits": truth}]), verbose=False
    )
    for name in set(found) - {"epoch", "step"}:
        assert task(model(), name).monitor == name


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_ends_training_before_the_step(bad: float, clip: float | None) -> None:
    truth, one = grids(4), task(model())
    nn.init.normal_(one.model.head.weight)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    with pytest.raises(NumericError, match=r"^[^\n]*step 0[^\n]*$"):
        trainer(max_steps=1, gradient_clip_val=clip).fit(
            one, loader([{"image": written(truth) * bad, "digits": truth}])
        )
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_gradient_that_is_not_finite_is_enough(bad: float) -> None:
    one = task(model())
    optimizer, one.loss = one.optimizer(one.model), torch.tensor(1.0)
    for parameter in one.parameters():
        parameter.grad = torch.zeros_like(parameter)
    one.configure_gradient_clipping(optimizer, 1.0)
    one.model.head.bias.grad[0] = bad
    with pytest.raises(NumericError, match=str(bad)):
        one.configure_gradient_clipping(optimizer, 1.0)


@pytest.mark.parametrize(("clip", "expected"), [(None, 10.0), (0.0, 10.0), (20.0, 10.0), (2.0, 2.0)])
def test_the_norm_of_all_gradients_together_is_clipped(clip: float | None, expected: float) -> None:
    one = task(model())
    optimizer, one.loss = one.optimizer(one.model), torch.tensor(1.0)
    for parameter in one.parameters():
        parameter.grad = torch.randn_like(parameter)
    scale = 10 / torch.cat([parameter.grad.flatten() for parameter in one.parameters()]).norm()
    gradients = [parameter.grad.mul_(scale).clone() for parameter in one.parameters()]
    one.configure_gradient_clipping(optimizer, clip)
    for parameter, gradient in zip(one.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient * expected / 10)
