"""The cost of Patchwork as ratios of paired measurements: `make bench`.

1. Time from the command to the first training step, compared with importing torch and Lightning.
2. A training step under the Trainer, with logging, progress bar and checkpoints, compared with a plain PyTorch loop.
3. Making a batch, compared with a training step.
4. A training step with fused attention, compared with plain matrix products.
5. A forward pass after interventions in a network have ended, and while they are at work, compared with one before.
6. Generating digits with caches, compared with recomputing the prefix for each patch, with the same weights and noise,
   and with a lower bound from counted operations and bytes.

Each pair is interleaved for several rounds, and the median of the ratios is printed.
"""

import statistics
from typing import NamedTuple

from .generation import generation_benchmarks
from .interventions import idle_benchmarks
from .startup import first_step, library_imports
from .timing import interleave, median_ratio
from .training import attention_benchmarks, training_benchmarks


class Row(NamedTuple):
    """A row of the table: a name of the comparison and the pairs of measurements."""

    name: str
    pairs: list[tuple[float, float]]


def main() -> None:
    startup = interleave(first_step, library_imports)
    training = interleave(*training_benchmarks())
    attention = interleave(*attention_benchmarks())
    idle = interleave(*idle_benchmarks())
    rows = [
        Row("start to first step / imports alone (s)", [(step, imports) for step, imports in startup]),
        Row("step under the Trainer / plain loop (ms)", [(trainer, plain) for trainer, plain, _ in training]),
        Row("making a batch / plain step (ms)", [(batch, plain) for _, plain, batch in training]),
        Row("step with fused attention / plain (ms)", [(fused, plain) for fused, plain in attention]),
        Row("forward after interventions / before (ms)", [(after, before) for after, before, _ in idle]),
        Row("forward during interventions / before (ms)", [(during, before) for _, before, during in idle]),
    ]
    rates = []
    for num_images in (64, 1):
        generation = interleave(*generation_benchmarks(num_images))
        name = f"generating {num_images} digit{'s' if num_images > 1 else ''}"
        rows.append(Row(f"{name} / without caches (ms)", [(cached, uncached) for cached, uncached, _ in generation]))
        rows.append(Row(f"{name} / lower bound (ms)", [(cached, bound) for cached, _, bound in generation]))
        rate = num_images / statistics.median(cached for cached, _, _ in generation) * 1e3
        rates.append(f"{num_images} at a time: {rate:,.0f} digits per second")
    print_table(rows)
    print("\n".join(rates))


def print_table(rows: list[Row]) -> None:
    print(f"{'':44} {'median':>9} {'compared':>9} {'ratio':>7}")
    for name, pairs in rows:
        median, compared = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(f"{name:44} {median:9.2f} {compared:9.2f} {median_ratio(pairs):7.3f}")


if __name__ == "__main__":
    main()
