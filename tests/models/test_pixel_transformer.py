"""The pixel transformer: normalized, causal, and sampling that follows the likelihood."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from patchwork.models import PixelTransformer
from patchwork.models.generator import Generator, SamplingOptions, generate
from patchwork.models.sampling import gumbel_max_sample

TOKENIZERS = ["gray256", "binary", "patch2x2", "patch4x4"]
Make = Callable[..., PixelTransformer]
Sample = Callable[..., Tensor]


@pytest.mark.parametrize(
    ("tokenizer", "size", "labels"),
    [
        ("binary", 2, range(4)),
        ("binary", 3, range(4)),
        ("patch2x2", 2, range(4)),
        ("patch2x2", 4, [1, 3]),
        ("patch4x4", 4, [1, 3]),
    ],
)
@pytest.mark.parametrize("pos_embed", ["learned", "rope", "none"])
@torch.inference_mode()
def test_probabilities_of_all_images_sum_to_one(
    make_pixel_transformer: Make, tokenizer: str, size: int, labels: list[int], pos_embed: str
) -> None:
    """For classes and, as the last label, for the null class."""
    model = make_pixel_transformer(tokenizer, size, pos_embed=pos_embed)
    every_image = (torch.arange(2**size**2)[:, None] >> torch.arange(size**2)) & 1
    every_image = every_image.view(-1, 1, size, size).double()
    for label in labels:
        log_probs = [model.log_likelihood(chunk, torch.full((len(chunk),), label)) for chunk in every_image.split(2048)]
        assert torch.cat(log_probs).logsumexp(dim=0).item() == pytest.approx(0, abs=1e-9)


@torch.no_grad()
def test_probabilities_of_a_gray_pixel_sum_to_one(make_pixel_transformer: Make, sample_images: Sample) -> None:
    model = make_pixel_transformer("gray256", 3)
    image, label = sample_images(model), torch.tensor([0, 1, 3])
    variants = image.repeat(256, 1, 1, 1, 1)
    variants[:, :, 0, 2, 2] = torch.arange(256.0)[:, None]  # the last pixel
    log_probs = torch.stack([model.log_likelihood(variant, label) for variant in variants])
    log_prob_before = log_probs.logsumexp(dim=0)  # of all pixels but the last
    assert torch.all(log_prob_before >= model.log_likelihood(image, label))
    logits = model(image, label)
    assert torch.allclose(logits[:, -1, 0].log_softmax(-1).T, log_probs - log_prob_before)


@torch.no_grad()
def test_loss_is_the_negative_log_likelihood(make_pixel_transformer: Make, sample_images: Sample) -> None:
    model = make_pixel_transformer(text_encoder_depth=1, num_words=9, prompt_length=2)
    image, label, prompt = sample_images(model), torch.tensor([0, 1, 3]), torch.tensor([[1, 2], [0, 0], [3, 0]])
    log_likelihood = model.log_likelihood(image, label, prompt)
    assert torch.equal(model.loss(image, label, prompt), -log_likelihood)
    differs = (log_likelihood - model.log_likelihood(image, label)).abs() > 1e-6
    assert differs.tolist() == [True, False, True]  # the second row has no words


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@torch.no_grad()
def test_causality_logits_depend_on_earlier_tokens_only(
    make_pixel_transformer: Make, sample_images: Sample, tokenizer: str
) -> None:
    model = make_pixel_transformer(tokenizer)
    image, label = sample_images(model), torch.tensor([0, 1, 3])
    tokens, logits = model.tokenize(image), model(image, label).flatten(1, 2)
    seq_len, sub_tokens, vocab_size = model.tokenizer.seq_len, model.tokenizer.sub_tokens, model.tokenizer.vocab_size
    for patch, sub_token in itertools.product(range(0, seq_len, max(1, seq_len // 8)), range(sub_tokens)):
        changed = tokens.clone()
        changed[:, patch, sub_token:] = (changed[:, patch, sub_token:] + 1) % vocab_size
        changed[:, patch + 1 :] = (changed[:, patch + 1 :] + 1) % vocab_size
        changed_logits = model(model.detokenize(changed), label).flatten(1, 2)
        position = patch * sub_tokens + sub_token
        assert torch.allclose(changed_logits[:, : position + 1], logits[:, : position + 1], atol=1e-12)
        if position + 1 < logits.shape[1]:
            assert not torch.allclose(changed_logits[:, position + 1], logits[:, position + 1])


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("pos_embed", ["learned", "rope", "none"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@torch.no_grad()
def test_kv_cache_does_not_change_the_samples(
    make_pixel_transformer: Make, tokenizer: str, pos_embed: str, guidance: float
) -> None:
    """Without a cache, the logits of each token are computed from the whole image so far, as the likelihood is."""
    model = make_pixel_transformer(tokenizer, 4 if tokenizer != "patch4x4" else 8, pos_embed=pos_embed)
    seq_len, sub_tokens = model.tokenizer.seq_len, model.tokenizer.sub_tokens
    label = torch.tensor([0, 2, 3])
    noise = model.sample_gumbel_noise(3, torch.Generator().manual_seed(2))
    tokens = torch.zeros(3, seq_len, sub_tokens, dtype=torch.long)
    for patch, sub_token in itertools.product(range(seq_len), range(sub_tokens)):
        image = model.detokenize(tokens)
        conditional = model(image, label)[:, patch, sub_token]
        unconditional = model(image, torch.full_like(label, model.null_class))[:, patch, sub_token]
        guided = unconditional + guidance * (conditional - unconditional)
        tokens[:, patch, sub_token] = gumbel_max_sample(guided, noise[:, patch, sub_token])
    options = SamplingOptions(guidance=guidance)
    sampled = generate(model, label, torch.Generator().manual_seed(2), options=options)
    assert torch.equal(sampled, model.detokenize(tokens).double())


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@torch.no_grad()
def test_kv_cache_does_not_change_the_logits(
    make_pixel_transformer: Make, sample_images: Sample, tokenizer: str
) -> None:
    model = make_pixel_transformer(tokenizer)
    image, label = sample_images(model), torch.tensor([0, 1, 3])
    assert torch.allclose(model.cached_logits(image, label), model(image, label), atol=1e-12)


@torch.no_grad()
def test_samples_follow_the_likelihood(make_pixel_transformer: Make) -> None:
    """The frequency of each image among many samples is its probability."""
    model, count = make_pixel_transformer("binary", 2), 40_000
    images = generate(model, torch.ones(count, dtype=torch.long), torch.Generator().manual_seed(3)).flatten(1).long()
    frequencies = (images * torch.tensor([1, 2, 4, 8])).sum(dim=1).bincount(minlength=16) / count
    every_image = ((torch.arange(16)[:, None] >> torch.arange(4)) & 1).view(16, 1, 2, 2).double()
    probs = model.log_likelihood(every_image, torch.ones(16, dtype=torch.long)).exp()
    assert torch.allclose(frequencies.double(), probs, atol=0.012)


@torch.no_grad()
def test_temperature_zero_and_top_1_take_the_likeliest_tokens(make_pixel_transformer: Make) -> None:
    model, label = make_pixel_transformer(), torch.tensor([0, 2, 3])
    greedy = generate(model, label, torch.Generator().manual_seed(1), options=SamplingOptions(temperature=0))
    top_1 = generate(model, label, torch.Generator().manual_seed(2), options=SamplingOptions(top_k=1))
    assert torch.equal(greedy, top_1)
    logits = model(greedy, label)
    assert torch.equal(logits.argmax(dim=-1), model.tokenize(greedy))


@torch.no_grad()
def test_sample_yields_the_image_patch_by_patch(make_pixel_transformer: Make) -> None:
    model, label = make_pixel_transformer(), torch.tensor([0, 2, 3])
    rng = torch.Generator().manual_seed(1)
    steps = [image.clone() for image in model.sample(label, rng)]
    assert len(steps) == model.tokenizer.seq_len
    for number, image in enumerate(steps, start=1):
        patches = [model.tokenizer.split_pixels(step)[:, :number] for step in (image, steps[-1])]
        assert torch.equal(patches[0], patches[1])
        assert not model.tokenizer.split_pixels(image)[:, number:].any()


def test_sample_takes_its_randomness_before_the_first_patch(make_pixel_transformer: Make) -> None:
    model, label = make_pixel_transformer(), torch.tensor([0, 2, 3])
    rng, expected = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    model.sample(label, rng)
    model.sample_gumbel_noise(3, expected)
    assert torch.equal(rng.get_state(), expected.get_state())


def test_pixel_transformer_is_a_generator(make_pixel_transformer: Make) -> None:
    model = make_pixel_transformer()
    assert isinstance(model, Generator)
    assert (model.num_levels, model.image_size, model.num_classes, model.null_class) == (2, 8, 3, 3)
    assert model.likelihood == "exact"
    assert not model.has_text_encoder
    assert make_pixel_transformer(text_encoder_depth=1).has_text_encoder


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 569_872),
        ({"text_encoder_depth": 2, "num_words": 55, "prompt_length": 16}, 649_808),
        ({"tokenizer": "gray256", "num_levels": 256}, 564_352),
    ],
)
def test_number_of_parameters(options: dict, count: int) -> None:
    model = PixelTransformer(**{"image_size": 28, "num_classes": 10, "num_levels": 2, **options})
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_num_heads_must_divide_embed_dim() -> None:
    with pytest.raises(ValueError, match="num_heads=3"):
        PixelTransformer(image_size=28, num_classes=10, num_levels=2, num_heads=3)
