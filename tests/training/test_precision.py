from collections.abc import Iterator

import pytest
import torch

from patchwork import compose
from patchwork.models import patch_embed
from patchwork.models.patch_embed import ConvStem, PatchEmbed, has_bfloat16, resolve_precision
from patchwork.training.precision import find_device_type, make_precision, resolve_stem_precision
from patchwork.training.trainer_arguments import FULL_PRECISION_NAMES


@pytest.fixture(autouse=True)
def _no_cache() -> Iterator[None]:
    has_bfloat16.cache_clear()
    yield
    has_bfloat16.cache_clear()


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16"), (False, 32)])
@pytest.mark.parametrize("task", ["seq2seq", "classify", "sum", "anchor", "icons"])
def test_auto_is_decided_and_becomes_part_of_the_configuration(
    monkeypatch: pytest.MonkeyPatch, task: str, fast: bool, expected: str | int
) -> None:
    monkeypatch.setattr(patch_embed, "has_bfloat16", lambda device_type: fast)
    config = compose([f"task={task}", "trainer.accelerator=cpu"])
    assert config.model.stem.precision == "auto"
    assert resolve_stem_precision(config).model.stem.precision == expected
    assert config.model.stem.precision == "auto"  # the original is left as it is


@pytest.mark.parametrize("name", ["64", 64, "64-true"])
def test_a_stem_in_double_precision_has_no_other(monkeypatch: pytest.MonkeyPatch, name: str | int) -> None:
    monkeypatch.setattr(patch_embed, "has_bfloat16", lambda device_type: True)
    config = compose([])
    config.trainer.precision = name
    assert resolve_stem_precision(config).model.stem.precision == 32


@pytest.mark.parametrize(("short", "name"), FULL_PRECISION_NAMES.items())
def test_short_names_are_the_same_precision(short: str, name: str) -> None:
    by_short, by_name = (make_precision(each, torch.device("cpu")) for each in (short, name))
    assert type(by_short) is type(by_name)
    assert by_short.precision == by_name.precision == name


@pytest.mark.parametrize("precision", ["bf16", 32])
def test_a_precision_that_is_set_is_kept(precision: str | int) -> None:
    config = compose([f"model.stem.precision={precision}"])
    assert resolve_stem_precision(config) == config
    assert resolve_stem_precision(compose(["model.stem=null"])).model.stem is None


def test_auto_computes_what_it_is_resolved_to(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"image_size": (8, 8), "patch_size": 4, "in_channels": 1, "embed_dim": 6}
    image = torch.rand(2, 1, 8, 8)

    def embed(precision: str | int) -> torch.Tensor:
        torch.manual_seed(1)
        stem = ConvStem(layers=[{"channels": 4, "kernel": 3, "pool": 2}], precision=precision)
        return PatchEmbed(**options, stem=stem)(image)

    for fast in (True, False):
        monkeypatch.setattr(patch_embed, "has_bfloat16", lambda device_type, fast=fast: fast)
        assert torch.equal(embed("auto"), embed(resolve_precision("auto", "cpu")))
    assert not torch.equal(embed("bf16"), embed(32))


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize("isa", ["SSE41", "AVX2", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"])
def test_no_bfloat16_where_the_library_may_not_use_it(monkeypatch: pytest.MonkeyPatch, variable: str, isa: str) -> None:
    monkeypatch.setattr(patch_embed.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setenv(variable, isa)
    assert not has_bfloat16("cpu")


@pytest.mark.parametrize(("capability", "instructions"), [("AVX2", True), ("DEFAULT", True), ("AVX512", False)])
def test_no_bfloat16_without_its_instructions(
    monkeypatch: pytest.MonkeyPatch, capability: str, instructions: bool
) -> None:
    monkeypatch.setattr(patch_embed.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    assert not has_bfloat16("cpu")


def test_the_device_follows_lightnings_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert find_device_type("auto") == expected
    assert [find_device_type(name) for name in ("cpu", "cuda", "mps")] == ["cpu", "cuda", "mps"]
