"""A forward pass of a network that was looked into, compared with one that never was; hooks cost nothing when idle."""

import torch

from patchwork.models.interventions import intervene, point_names
from patchwork.models.transformer import record_attention
from patchwork.runs.build import build

from .timing import Benchmark, make_config, milliseconds

NUM_PASSES = 10  # a measurement


def idle_benchmarks(*overrides: str) -> tuple[Benchmark, Benchmark, Benchmark]:
    """Return benchmarks in milliseconds: a network after interventions, an untouched one, one with them at work."""
    data, task = build(make_config(*overrides))
    data.prepare_data()
    data.setup("")
    _, untouched = build(make_config(*overrides))
    batch = data.make_batch("val", (0, 0), slice(0, 64))
    task.eval(), untouched.eval()
    edits = {name: lambda activation: activation for name in point_names(task.model)}
    with intervene(task.model, edits), record_attention(task.model), torch.no_grad():
        task(batch)

    @torch.inference_mode()
    def forward(network: torch.nn.Module) -> float:
        return milliseconds(lambda: [network(batch) for _ in range(NUM_PASSES)]) / NUM_PASSES

    def edited() -> float:
        with intervene(task.model, edits):
            return forward(task)

    return lambda: forward(task), lambda: forward(untouched), edited
