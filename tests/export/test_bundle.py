"""The page's engine computes what PyTorch does, at every point of a network, and with interventions."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from drawing_helpers import run_node
from torch import Tensor, nn

from patchwork import compose
from patchwork.core.errors import ConfigError
from patchwork.data.image_data import ImageSourceDataModule
from patchwork.export.bundle import Bundle, make_bundle
from patchwork.models.interventions import intervene, point_names, record_points, replace_with
from patchwork.models.transformer import record_attention
from patchwork.runs.build import build
from patchwork.tasks import Task

SMALL = ["dataset=uci", "model.embed_dim=16", "model.num_heads=2"]
STEM = "model.stem.layers=[{channels: 5, kernel: 5, stride: 2}, {channels: 7, kernel: 3, pool: 2}]"
SEQ2SEQ = {
    "default": [STEM],
    "patches": ["model.stem=null", "model.patch_size=14"],
    "rotated": ["model.stem.layers=[{channels: 4, kernel: 3}]", "model.patch_size=14", "model.pos_embed=rope"],
    "post-norm": [STEM, "model.norm_first=false", "model.decoder_depth=2", "model.dropout=0.1"],
    "one cell": [STEM, "data.rows=1", "data.cols=1", "model.encoder_depth=1"],
    "wide": ["model.stem=null", "data.rows=3", "data.cols=5"],
}
CLASSIFY = {
    "default": ["task=classify", "model.stem.layers=[{channels: 5, kernel: 3, stride: 2}]", "model.patch_size=14"],
    "mean": ["task=classify", "model.stem=null", "model.patch_size=7", "model.pool=mean", "model.depth=2"],
    "rotated": ["task=classify", "model.stem=null", "model.patch_size=7", "model.pos_embed=rope", "model.depth=2"],
    "post-norm": ["task=classify", "model.stem=null", "model.patch_size=14", "model.norm_first=false"],
}


def random_task(overrides: list[str]) -> tuple[Task, ImageSourceDataModule]:
    """Return a task whose weights and running statistics are all random."""
    data, task = build(compose([*SMALL, *overrides]))
    assert isinstance(data, ImageSourceDataModule)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in task.model.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=rng) + 0.5)
            elif value.is_floating_point() and value.ndim < 2:
                value.add_(0.2 * torch.randn(value.shape, generator=rng))
        nn.init.normal_(task.model.head.weight, std=0.5, generator=rng)
    for module in task.model.modules():
        if hasattr(module, "precision"):
            module.precision = 32
    return task.eval(), data


def to_json(bundle: Bundle) -> dict[str, Any]:
    tensors = {name: {"shape": list(v.shape), "data": v.flatten().tolist()} for name, v in bundle.tensors.items()}
    return {"spec": bundle.spec, "tensors": tensors}


SETUP = """
    const { build } = await import(`${lab}/networks.js`);
    for (const tensor of Object.values(data.bundle.tensors)) tensor.data = Float32Array.from(tensor.data);
    const network = build(data.bundle);
    const points = (trace) => Object.fromEntries([...trace.points].map(([name, values]) => [name, [...values]]));
    const calls = (trace) => [...trace.attention].map(([name, call]) => [name, [...call.weights]]);
    const weights = (trace) => Object.fromEntries(calls(trace));
"""


def run_engine(script: str, task: Task, data: ImageSourceDataModule, **values: Any) -> Any:
    return run_node(SETUP + script, {"bundle": json.loads(json.dumps(to_json(make_bundle(task, data)))), **values})


def random_pixels(data: ImageSourceDataModule, seed: int = 0) -> Tensor:
    """Return an image (1, 1, H, W) of whole numbers from 0 to 255, most of them zero."""
    pixels = torch.randint(0, 256, (1, *data.image_shape), generator=torch.Generator().manual_seed(seed)).float()
    return pixels * (torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.3)


def assert_close(actual: list[float], expected: Tensor) -> None:
    np.testing.assert_allclose(np.array(actual), expected.detach().double().flatten().numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SEQ2SEQ)
@torch.no_grad()
def test_every_activation_of_the_reader_is_torchs(name: str) -> None:
    task, data = random_task(SEQ2SEQ[name])
    pixels, model = random_pixels(data), task.model
    script = """
        const result = network.read(Float32Array.from(data.pixels));
        const { memory, tokens, probabilities, encoder, decoder } = result;
        console.log(JSON.stringify({
            tokens, memory: [...memory], probabilities: [...probabilities],
            points: { ...points(encoder), ...points(decoder) }, weights: { ...weights(encoder), ...weights(decoder) },
            lens: network.lens(decoder).map((layer) => [...layer]),
        }));
    """
    result = run_engine(script, task, data, pixels=pixels.flatten().tolist())
    batch = {"image": data.normalize(pixels.clone())}
    tokens = model.generate(batch["image"])
    assert result["tokens"] == tokens[0].tolist()
    with record_points(model, point_names(model)) as points, record_attention(model) as calls:
        logits = model(batch["image"], task.shift_right(tokens))
    assert_close(result["probabilities"], logits.softmax(dim=-1))
    assert_close(result["memory"], model.encode(batch["image"]))
    assert {*points} <= {*result["points"]}
    for point, (expected,) in points.items():
        assert_close(result["points"][point], expected)
    assert {*calls} == {*result["weights"]}
    for layer, (call,) in calls.items():
        assert_close(result["weights"][layer], call.weights)
    assert_close(result["lens"][-1], logits.softmax(dim=-1))


@pytest.mark.parametrize("name", CLASSIFY)
@torch.no_grad()
def test_every_activation_of_the_classifier_is_torchs(name: str) -> None:
    task, data = random_task(CLASSIFY[name])
    pixels, model = random_pixels(data), task.model
    script = """
        const { logits, trace } = network.classify(Float32Array.from(data.pixels));
        console.log(JSON.stringify({ logits: [...logits], points: points(trace), weights: weights(trace) }));
    """
    result = run_engine(script, task, data, pixels=pixels.flatten().tolist())
    with record_points(model, point_names(model)) as points, record_attention(model) as calls:
        logits = model(data.normalize(pixels.clone()))
    assert_close(result["logits"], logits)
    for point, (expected,) in points.items():
        assert_close(result["points"][point], expected)
    for layer, (call,) in calls.items():
        assert_close(result["weights"][layer], call.weights)


@torch.no_grad()
def test_interventions_are_torchs() -> None:
    task, data = random_task([*SEQ2SEQ["patches"], "model.decoder_depth=2"])
    pixels, model = random_pixels(data), task.model
    script = """
        const silence = (name, values, columns) => {
            if (name === "encoder.0.attn.heads") {
                const size = columns / 2;
                return values.map((value, index) => (Math.floor((index % columns) / size) === 1 ? 0 : value));
            }
            if (name === "patch_embed") return values.map((value, i) => (Math.floor(i / columns) === 3 ? 0 : value));
            return values;
        };
        const options = { edit: silence, forced: { 1: 4 } };
        const { tokens, probabilities } = network.read(Float32Array.from(data.pixels), options);
        console.log(JSON.stringify({ tokens, probabilities: [...probabilities] }));
    """
    result = run_engine(script, task, data, pixels=pixels.flatten().tolist())
    assert result["tokens"][1] == 4
    hide = torch.ones(16, 1)
    hide[3] = 0
    handle = model.patch_embed.register_forward_hook(lambda module, inputs, output: output * hide)
    tokens = torch.tensor([result["tokens"]])
    with intervene(model, {"encoder.0.attn.heads": replace_with(torch.zeros(1), head=1)}):
        logits = model(data.normalize(pixels.clone()), task.shift_right(tokens))
    handle.remove()
    assert_close(result["probabilities"], logits.softmax(dim=-1))
    free = [0, 2, 3]  # places that were not forced
    assert logits.argmax(dim=-1)[0, free].tolist() == [result["tokens"][place] for place in free]


def test_erf_is_exact() -> None:
    script = """
        const { erf } = await import(`${lab}/kernels.js`);
        console.log(JSON.stringify(data.map(erf)));
    """
    x = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    np.testing.assert_allclose(run_node(script, x.tolist()), torch.erf(x).numpy(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("overrides", [["task=sum"], ["task=classify", "model=cnn"], ["model=cell_pool"]])
def test_other_models_are_refused_in_one_line(overrides: list[str]) -> None:
    data, task = build(compose(["dataset=uci", *overrides]))
    with pytest.raises(ConfigError, match="does not run in the page") as error:
        make_bundle(task, data)
    assert "\n" not in str(error.value)
