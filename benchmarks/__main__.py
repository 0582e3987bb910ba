"""What Patchwork costs, as ratios measured side by side: `make bench`.

1. Time from the command to the first training step, beside the time to import torch and Lightning alone.
2. A training step under the Trainer, with logging, progress bar and checkpoints, beside a plain PyTorch loop of it.
3. Making a batch, beside a training step.
4. A training step with fused attention, beside one with attention in plain products.
5. Drawing digits from caches, beside reading all that is drawn again for every patch, with the same weights and noise;
   and beside what the counted operations and bytes would take at the speed that this machine multiplies and copies.

Each pair is measured in turns, several times, and the median of the ratios is told: machines are noisy, pairs less so.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROUNDS, STEPS, WARM = 5, 160, 10  # rounds, steps of a loop, and how many of them are not measured
SETTINGS = [
    "digits=uci",
    f"data.train_size={64 * STEPS}",
    "data.val_size=500",
    "data.test_size=500",
    "trainer.max_epochs=1",
    "callbacks.samples=null",
]


def in_turns(rounds: int, *measures: Callable[[], float]) -> list[tuple[float, ...]]:
    """Measure in turns, so that a change of the machine's speed meets all alike; the first turn warms up."""
    return [tuple(measure() for measure in measures) for _ in range(rounds + 1)][1:]


def ratio(pairs: list[tuple[float, ...]]) -> float:
    return statistics.median(ours / theirs for ours, theirs in pairs)


def start_of_a_run() -> float:
    """Seconds from the command to the end of its first training step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / "train.py", *SETTINGS, "debug=fast", f"folder={folder}/run"]
        subprocess.run(command, check=True, capture_output=True)
        return json.loads(Path(folder, "run", "manifest.json").read_text())["startup_seconds"]


def import_of_libraries() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, pytorch_lightning"], check=True)
    return time.perf_counter() - started


def steps() -> tuple[Callable[[], float], Callable[[], float], Callable[[], float]]:
    """Return three measures in milliseconds: a step under the Trainer, the same step in a plain loop, and a batch."""
    import patchwork.lightning  # noqa: F401, I001
    import pytorch_lightning as pl
    import torch
    from hydra import compose, initialize_config_dir
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from patchwork.callbacks import Checkpoints, Clock, Progress, Seeds, TrainingLog
    from patchwork.loggers import MetricsTable
    from patchwork.run import build, make_trainer, parts

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", SETTINGS)
    whole = slice(None)

    class Stopwatch(pl.Callback):
        """Note when each batch ends."""

        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_train_batch_end(self, *_: object) -> None:
            self.ends.append(time.perf_counter())

        def milliseconds(self) -> float:
            return (self.ends[-1] - self.ends[WARM - 1]) / (len(self.ends) - WARM) * 1e3

    def under_the_trainer() -> float:
        data, task = build(config)
        clock, checkpoints = Clock(time.time()), Checkpoints(config.save_seconds)
        logs = TrainingLog(config.trainer.log_every_n_steps)
        watch = Stopwatch()
        trainer = make_trainer(config, [Seeds(0), clock, logs, *parts(config, "callbacks"), checkpoints, watch])
        for callback in trainer.callbacks:
            if isinstance(callback, Progress):
                callback.shown = True
        with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):  # the bar is drawn, but not seen
            checkpoints.folder = Path(folder)
            trainer.loggers = [MetricsTable(Path(folder))]
            trainer.fit(task, data)
        return watch.milliseconds()

    def plain() -> float:
        data, task = build(config)
        data.setup()
        model = task.model.train()
        optimizer = task.optimizer(model)
        schedule = task.scheduler(optimizer, STEPS)
        decay = config.callbacks.ema.decay if config.callbacks.get("ema") else None
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None
        ends = []
        for index in range(STEPS):
            torch.manual_seed(index)
            batch = data.make("train", (0, index), whole)
            optimizer.zero_grad(set_to_none=True)
            loss = task.step(batch, "train")
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.trainer.gradient_clip_val)
            assert norm.isfinite()
            optimizer.step()
            schedule.step()
            if average is not None:
                average.update_parameters(model)
            ends.append(time.perf_counter())
        return (ends[-1] - ends[WARM - 1]) / (STEPS - WARM) * 1e3

    data, _ = build(config)
    data.setup()

    def batch() -> float:
        started = time.perf_counter()
        for index in range(STEPS):
            data.make("train", (0, index), whole)
        return (time.perf_counter() - started) / STEPS * 1e3

    return under_the_trainer, plain, batch


def attention(*settings: str) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return two measures in milliseconds: a step of the pixel decoder with fused attention, and with plain products.

    The step is forward and backward, without the optimizer.
    """
    import torch
    from hydra import compose, initialize_config_dir
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from patchwork.run import build, keep_memory

    keep_memory()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        data, task = build(compose("train", ["task=pixels", "digits=uci", *settings]))
    data.setup()
    task.train()

    def loss(kernel: SDPBackend) -> torch.Tensor:
        torch.manual_seed(0)
        with sdpa_kernel(kernel):
            return task.step(data.make("train", (0, 0), slice(None)), "train").detach()

    torch.testing.assert_close(loss(SDPBackend.FLASH_ATTENTION), loss(SDPBackend.MATH))

    def step(kernel: SDPBackend) -> float:
        started = time.perf_counter()
        with sdpa_kernel(kernel):
            for index in range(WARM):
                torch.manual_seed(index)
                task.zero_grad(set_to_none=True)
                task.step(data.make("train", (0, index), slice(None)), "train").backward()
        return (time.perf_counter() - started) / WARM * 1e3

    return lambda: step(SDPBackend.FLASH_ATTENTION), lambda: step(SDPBackend.MATH)


def drawing(size: int, *settings: str) -> tuple[Callable[[], float], Callable[[], float], Callable[[], float]]:
    """Return three measures in milliseconds, of drawing `size` images: from caches, without, and the least possible."""
    import torch
    from hydra import compose, initialize_config_dir
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from patchwork.models.pixel_decoder import Drawing, PixelDecoder, sample
    from patchwork.run import build

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        model = build(compose("train", ["task=pixels", "digits=uci", *settings]))[1].model.eval()
    assert isinstance(model, PixelDecoder)
    label = torch.arange(size) % model.none
    noise = model.noise(size, torch.Generator().manual_seed(0))

    class Again(Drawing):
        """Read everything again before each patch."""

        def __init__(self, model: PixelDecoder, told: torch.Tensor) -> None:
            super().__init__(model, told)
            self.done: list[torch.Tensor] = []

        def read(self) -> torch.Tensor:
            self.done.append(self.patch)  # the first is empty
            return self.model.read(torch.cat(self.done, dim=1), self.told)[:, -1:]

    @torch.inference_mode()
    def draw(kind: type[Drawing]) -> torch.Tensor:
        drawn = kind(model, model.condition(label))
        for place in range(model.length):
            for turn in range(model.symbols):
                drawn.put(sample(drawn.logits(), noise[:, place, turn]))
        return drawn.image

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the fused kernel is not counted
        draw(Drawing)
    weights = sum(parameter.nbytes for part in (model.blocks, model.norm) for parameter in part.parameters())
    inner = sum(parameter.nbytes for parameter in model.inner.parameters()) * model.symbols
    half = size * model.length // 2  # patches that are in the caches on average
    cache = 2 * len(model.blocks) * half * model.class_embed.weight[0].nbytes

    def timed(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return (time.perf_counter() - started) * 1e3

    def floor() -> float:
        """Multiply as fast as a large product does; or, if that takes longer, read what patches need as a copy does."""
        square, read = torch.rand(1024, 1024), torch.rand((weights + inner + cache) // 4)
        multiply = min(timed(lambda: square @ square) for _ in range(3))
        copy = min(timed(read.clone) for _ in range(3))
        return max(counter.get_total_flops() / (2 * 1024**3) * multiply, model.length * copy / 2)

    return lambda: timed(lambda: draw(Drawing)), lambda: timed(lambda: draw(Again)), floor


def main() -> None:
    starts = in_turns(ROUNDS, start_of_a_run, import_of_libraries)
    under_the_trainer, plain, batch = steps()
    loops = in_turns(ROUNDS, under_the_trainer, plain, batch)
    kernels = in_turns(ROUNDS, *attention())
    drawn = {size: in_turns(ROUNDS, *drawing(size)) for size in (64, 1)}
    print(f"{'':44} {'median':>9} {'beside':>9} {'ratio':>7}")
    rows = [
        ("start to first step / imports alone (s)", starts),
        ("step under the Trainer / plain loop (ms)", [(ours, theirs) for ours, theirs, _ in loops]),
        ("making a batch / plain step (ms)", [(made, step) for _, step, made in loops]),
        ("step with fused attention / plain (ms)", kernels),
    ]
    for size, times in drawn.items():
        images = f"drawing {size} digits" if size > 1 else "drawing one digit"
        rows.append((f"{images} / reading all again (ms)", [(ours, again) for ours, again, _ in times]))
        rows.append((f"{images} / the least possible (ms)", [(ours, least) for ours, _, least in times]))
    for name, pairs in rows:
        ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{name:44} {ours:9.2f} {theirs:9.2f} {ratio(pairs):7.3f}")
    for size, times in drawn.items():
        rate = size / statistics.median(ours for ours, _, _ in times) * 1e3
        print(f"{size} at a time: {rate:,.0f} digits a second")


if __name__ == "__main__":
    main()
