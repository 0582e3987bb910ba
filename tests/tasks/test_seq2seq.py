"""Reading grids: metrics as plain counts of greedy decoding, predictions, samples, gradients and model interfaces."""

import inspect
import math
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from patchwork.core.errors import ConfigError, NumericError
from patchwork.models import CellPoolEncoderDecoder, EncoderDecoder
from patchwork.tasks import Seq2Seq
from patchwork.tasks.base import explain_symbols
from patchwork.training.optimizers import adamw
from patchwork.training.schedulers import constant

CLASSES, ROWS, COLS, CELL = 5, 2, 3, 2
SIZES = {"rows": ROWS, "cols": COLS, "cell_size": CELL, "num_classes": CLASSES, "patch_size": CELL, "stem": None}
pytestmark = pytest.mark.filterwarnings("ignore:.*(does not have many workers|no `val_dataloader`)")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class Scripted(EncoderDecoder):
    """Decodes what `draw_tokens` drew into the image, and is certain of the target where it is teacher-forced."""

    def encode(self, image: Tensor) -> Tensor:
        return image

    def decode(self, memory: Tensor, tokens: Tensor, caches: Any = None) -> Tensor:
        target = F.pad(tokens[:, 1:], (0, 1), value=self.eos_id)
        return 50 * F.one_hot(target, CLASSES + 2).float() + 0 * self.head.bias

    def greedy_decode(self, memory: Tensor) -> Tensor:
        return memory[:, 0, ::CELL, ::CELL].flatten(1).round().long()


def make_model(model_class: type[EncoderDecoder] = EncoderDecoder) -> EncoderDecoder:
    return model_class(**SIZES, embed_dim=8, num_heads=2)


def make_seq2seq(model: nn.Module, monitor: str = "val/loss") -> Seq2Seq:
    optimizer = partial(adamw, lr=0.01, betas=[0.9, 0.99], weight_decay=0.1)
    return Seq2Seq(model=model, optimizer=optimizer, scheduler=constant, monitor=monitor)


def random_grids(count: int) -> Tensor:
    return torch.randint(CLASSES, (count, ROWS * COLS))


def draw_tokens(tokens: Tensor) -> Tensor:
    """Draw tokens (B, T) into images (B, 1, height, width), one to a cell."""
    cells = tokens.float().view(-1, 1, ROWS, COLS)
    return cells.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)


def trainer(**options: Any) -> pl.Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return pl.Trainer(accelerator="cpu", devices=1, **{**dict.fromkeys(quiet, False), **options})


def loader(batches: list[dict[str, Tensor]]) -> DataLoader:
    return DataLoader(batches, batch_size=None)


# --- metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("sizes", [[7, 7, 2], [1, 9], [5]])
def test_metrics_are_plain_counts_over_uneven_batches(split: str, sizes: list[int]) -> None:
    target = random_grids(sum(sizes))
    preds = torch.where(torch.rand(target.shape) < 0.8, target, random_grids(len(target)))
    preds[0] = target[0]  # one is correct in all cells
    preds[1:2, 3:] = CLASSES + 1  # one ends too early
    batches = [
        {"image": draw_tokens(tokens), "digits": digits}
        for tokens, digits in zip(preds.split(sizes), target.split(sizes), strict=True)
    ]
    run = trainer().validate if split == "val" else trainer().test
    (metrics,) = run(make_seq2seq(Scripted(**SIZES)), loader(batches), verbose=False)
    pairs = list(zip(preds.tolist(), target.tolist(), strict=True))
    expected = {
        "sequence_accuracy": sum(a == b for a, b in pairs) / len(pairs),
        "digit_accuracy": sum(x == y for a, b in pairs for x, y in zip(a, b, strict=True)) / target.numel(),
    }
    for cell in range(ROWS * COLS):
        correct = sum(a[cell] == b[cell] for a, b in pairs)
        expected[f"cell_accuracy/{cell // COLS}_{cell % COLS}"] = correct / len(pairs)
    for name, value in expected.items():
        assert metrics[f"{split}/{name}"] == pytest.approx(value, abs=1e-6), name
    assert set(metrics) - {"epoch", "step"} == {f"{split}/{name}" for name in [*expected, "loss"]}


def test_loss_is_the_mean_over_all_samples_and_tokens() -> None:
    """Batches of different sizes count by their size; end-of-sequence is one of the tokens."""
    model, sizes = make_model().eval(), [6, 1]
    nn.init.normal_(model.head.weight)
    target, image = random_grids(7), torch.randn(7, 1, ROWS * CELL, COLS * CELL)
    (metrics,) = trainer().validate(
        make_seq2seq(model),
        loader([{"image": i, "digits": d} for i, d in zip(image.split(sizes), target.split(sizes), strict=True)]),
        verbose=False,
    )
    total = 0.0
    with torch.no_grad():
        for picture, digits in zip(image, target.tolist(), strict=True):
            for position, token in enumerate([*digits, model.eos_id]):
                tokens = torch.tensor([[model.bos_id, *digits[:position]]])
                total -= model(picture[None], tokens)[0, -1].log_softmax(-1)[token].item()
    assert metrics["val/loss"] == pytest.approx(total / (7 * (ROWS * COLS + 1)), rel=1e-5)


def test_accuracy_is_that_of_greedy_decoding_without_teacher_forcing() -> None:
    target = random_grids(6)
    (metrics,) = trainer().validate(
        make_seq2seq(Scripted(**SIZES)),
        loader([{"image": draw_tokens((target + 1) % CLASSES), "digits": target}]),
        verbose=False,
    )
    assert metrics["val/loss"] < 1e-6
    assert metrics["val/digit_accuracy"] == metrics["val/sequence_accuracy"] == 0


def test_metrics_are_reset_between_validations() -> None:
    target, task, validator = random_grids(4), make_seq2seq(Scripted(**SIZES)), trainer()
    for preds, accuracy in [(target, 1.0), ((target + 1) % CLASSES, 0.0)]:
        batch = {"image": draw_tokens(preds), "digits": target}
        (metrics,) = validator.validate(task, loader([batch]), verbose=False)
        assert metrics["val/sequence_accuracy"] == accuracy


@pytest.mark.parametrize("model_class", [EncoderDecoder, CellPoolEncoderDecoder])
def test_loss_starts_uniform_and_falls(model_class: type[EncoderDecoder]) -> None:
    target = random_grids(32)
    batch = {"image": draw_tokens(target) - 2, "digits": target}
    task = make_seq2seq(make_model(model_class))
    assert task.step(batch, "train").item() == pytest.approx(math.log(CLASSES + 2), abs=1e-5)
    assert task.uniform_loss(batch) == pytest.approx(math.log(CLASSES + 2))
    trainer(max_steps=30, limit_val_batches=0).fit(task, loader([batch] * 30))
    assert task.step(batch, "train").item() < 0.8 * math.log(CLASSES + 2)


# --- predictions -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_predictions_are_decoded_greedily_with_the_log_probs_along_that_path() -> None:
    model = make_model().eval()
    nn.init.normal_(model.head.weight)
    model.head.bias[model.eos_id] += 1.5  # so that some sequences end early
    image, digits = torch.randn(16, 1, ROWS * CELL, COLS * CELL), random_grids(16)
    predictions = make_seq2seq(model).predict_step({"image": image, "digits": digits}, 0)
    tokens = model.generate(image)
    assert torch.equal(predictions.prediction, tokens)
    assert torch.equal(predictions.target, digits)
    assert torch.equal(predictions.log_probs.argmax(dim=-1), tokens)
    torch.testing.assert_close(predictions.log_probs.exp().sum(dim=-1), torch.ones(16, ROWS * COLS))
    ended = (tokens == model.eos_id).cumsum(dim=1) > 1  # after the first end-of-sequence token
    assert ended.any()
    assert predictions.log_probs.amax(dim=-1)[ended].eq(0).all()
    expected = torch.zeros(16)
    for position in range(ROWS * COLS):
        inputs = torch.cat([torch.full((16, 1), model.bos_id), tokens[:, :position]], dim=1)
        log_probs = model(image, inputs)[:, -1].log_softmax(dim=-1)
        chosen = log_probs.gather(1, tokens[:, position : position + 1]).squeeze(1)
        expected += chosen.where(~ended[:, position], 0)
    torch.testing.assert_close(predictions.probability, expected.exp())


def test_predictions_need_no_digits() -> None:
    task = make_seq2seq(Scripted(**SIZES))
    predictions = task.predict_step({"image": draw_tokens(torch.tensor([[0, 1, 2, 3, 4, 0]]))}, 0)
    assert predictions.target is None
    assert task.format_answers(predictions.prediction) == ["012340"]


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "expected"), [(2, 2), (3, 3), (10, 3)])
def test_samples_show_targets_and_greedy_predictions(count: int, expected: int) -> None:
    target = torch.tensor([[0, 1, 2, 3, 4, 0], [4, 4, 4, 4, 4, 4], [1, 2, 1, 2, 1, 2]])
    preds = torch.tensor([[0, 1, 2, 3, 4, 0], [4, 3, 6, 6, 6, 6], [5, 2, 1, 2, 1, 6]])
    samples = make_seq2seq(Scripted(**SIZES)).samples({"image": draw_tokens(preds), "digits": target}, count)
    assert ["".join(sample.target) for sample in samples] == ["012340", "444444", "121212"][:expected]
    assert ["".join(sample.prediction) for sample in samples] == ["012340", "43$$$$", "^2121$"][:expected]
    for sample in samples:
        assert (sample.rows, sample.cols) == (ROWS, COLS)
        assert sample.image.shape == (1, ROWS * CELL, COLS * CELL)
        assert sample.image.min() >= 0
        assert sample.image.max() <= 1


def test_sample_of_a_blank_image_is_finite() -> None:
    blank = torch.zeros(1, 1, ROWS * CELL, COLS * CELL)
    (sample,) = make_seq2seq(make_model()).samples({"image": blank, "digits": random_grids(1)}, 1)
    assert sample.image.isfinite().all()


# --- model interface and monitor -------------------------------------------------------------------------------------


class Classifier(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1)


class SwappedArguments(EncoderDecoder):
    """Has all methods, but `decode` takes its arguments in another order."""

    def decode(self, tokens: Tensor, memory: Tensor) -> Tensor:
        return super().decode(memory, tokens)


@pytest.mark.parametrize("model", [Classifier(), nn.Linear(2, 2), nn.Identity(), make_model(SwappedArguments)])
def test_a_model_with_another_interface_is_refused_in_one_line(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match=rf"^[^\n]*{type(model).__name__}[^\n]*seq2seq[^\n]*\([^\n]*\)$"):
        make_seq2seq(model)


@pytest.mark.parametrize("name", ["rows", "cols", "bos_id", "eos_id"])
def test_a_model_without_an_attribute_that_the_task_reads_is_refused(name: str) -> None:
    model = make_model()
    delattr(model, name)
    with pytest.raises(ConfigError, match=f"^model=encoder_decoder does not fit task=seq2seq, which reads its {name}$"):
        make_seq2seq(model)


def test_no_other_members_of_a_model_are_used() -> None:
    """A model of another class works in all that the task offers, with what `Seq2Seq` declares alone."""
    inner = make_model().eval()
    nn.init.normal_(inner.head.weight)
    names = {*Seq2Seq.model_interface, *Seq2Seq.model_attributes} - {"forward"}

    class Declared(nn.Module):
        def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
            return inner(image, tokens)

    for name in names - set(Seq2Seq.model_attributes):
        setattr(Declared, name, lambda self, *args, _name=name: getattr(inner, _name)(*args))
        getattr(Declared, name).__signature__ = inspect.signature(getattr(EncoderDecoder, name))
    model = Declared()
    for name in Seq2Seq.model_attributes:
        setattr(model, name, getattr(inner, name))
    task, digits = make_seq2seq(model), random_grids(3)
    batch = {"image": torch.randn(3, 1, ROWS * CELL, COLS * CELL), "digits": digits}
    with torch.no_grad():
        assert len(task.samples(batch, 3)) == 3
        tokens = task.generate_tokens(batch)
        assert torch.equal(task.predict_step(batch, 0).prediction, tokens)
        torch.testing.assert_close(task.cached_logits(batch, tokens), task.logits(batch, tokens))
        assert task.step(batch, "val") == task.step(batch, "train")


@pytest.mark.parametrize("model_class", [EncoderDecoder, CellPoolEncoderDecoder, Scripted])
def test_models_with_the_interface_are_accepted(model_class: type[EncoderDecoder]) -> None:
    Seq2Seq.check_model_interface(model_class)


@pytest.mark.parametrize("monitor", ["val/nonsense", "test/loss", "loss", "val/cell_accuracy", ""])
def test_an_unknown_monitor_is_refused(monitor: str) -> None:
    with pytest.raises(ConfigError, match=rf"^task\.monitor={monitor} [^\n]*val/loss[^\n]*$"):
        make_seq2seq(make_model(), monitor)


def test_every_metric_can_be_monitored() -> None:
    target = random_grids(2)
    batch = {"image": draw_tokens(target), "digits": target}
    (metrics,) = trainer().validate(make_seq2seq(Scripted(**SIZES)), loader([batch]), verbose=False)
    for name in set(metrics) - {"epoch", "step"}:
        assert make_seq2seq(make_model(), name).monitor == name


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_non_finite_gradients_end_training_before_the_optimizer_step(bad: float, clip: float | None) -> None:
    target, task = random_grids(4), make_seq2seq(make_model())
    nn.init.normal_(task.model.head.weight)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    with pytest.raises(NumericError, match=r"^[^\n]*step 0[^\n]*$"):
        trainer(max_steps=1, gradient_clip_val=clip).fit(
            task, loader([{"image": draw_tokens(target) * bad, "digits": target}])
        )
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_single_non_finite_gradient_is_an_error(bad: float) -> None:
    task = make_seq2seq(make_model())
    optimizer, task.loss = task.optimizer(task.model), torch.tensor(1.0)
    for parameter in task.parameters():
        parameter.grad = torch.zeros_like(parameter)
    task.configure_gradient_clipping(optimizer, 1.0)
    task.model.head.bias.grad[0] = bad
    with pytest.raises(NumericError, match=str(bad)):
        task.configure_gradient_clipping(optimizer, 1.0)


@pytest.mark.parametrize(("clip", "expected"), [(None, 10.0), (0.0, 10.0), (20.0, 10.0), (2.0, 2.0)])
def test_gradient_clipping_limits_the_total_norm(clip: float | None, expected: float) -> None:
    task = make_seq2seq(make_model())
    optimizer, task.loss = task.optimizer(task.model), torch.tensor(1.0)
    for parameter in task.parameters():
        parameter.grad = torch.randn_like(parameter)
    scale = 10 / torch.cat([parameter.grad.flatten() for parameter in task.parameters()]).norm()
    gradients = [parameter.grad.mul_(scale).clone() for parameter in task.parameters()]
    task.configure_gradient_clipping(optimizer, clip)
    for parameter, gradient in zip(task.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient * expected / 10)


def test_symbols_in_answers_are_explained_and_no_others() -> None:
    assert explain_symbols(["12$$", "1234"], Seq2Seq.symbols) == "$ the end of the sequence, predicted too early"
    assert explain_symbols(["1234"], Seq2Seq.symbols) == ""
