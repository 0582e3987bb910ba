"""Ensembles: an ensemble of one is its member, and of several the mean of their probabilities."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from patchwork.models import AnchorDetector, EncoderDecoder
from patchwork.models.ensemble import AnchorDetectorEnsemble, EncoderDecoderEnsemble, Ensemble, log_mean_prob
from patchwork.models.protocols import Locates


def make_encoder_decoder(seed: int) -> EncoderDecoder:
    torch.manual_seed(seed)
    grid = {"rows": 1, "cols": 4, "cell_size": 4, "num_classes": 5, "patch_size": 4, "stem": None}
    model = EncoderDecoder(**grid, embed_dim=8, num_heads=2, encoder_depth=1, decoder_depth=2).double().eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def test_log_mean_prob_is_the_log_of_the_mean_probability() -> None:
    log_probs = torch.randn(3, 2, 5, dtype=torch.double).log_softmax(dim=-1)
    torch.testing.assert_close(log_mean_prob(log_probs), log_probs.exp().mean(dim=0).log())


def test_ensemble_combines_the_outputs_of_its_members() -> None:
    members = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]
    x = torch.randn(4, 3)
    expected = (members[0](x) + members[1](x)) / 2
    torch.testing.assert_close(Ensemble(members, lambda outputs: outputs.mean(dim=0))(x), expected)


def test_anchor_detector_ensemble_averages_attention(padded_images: tuple[Tensor, Tensor]) -> None:
    members = [AnchorDetector(image_size=14, in_channels=1, stem=None, embed_dim=8).eval() for _ in range(2)]
    ensemble = AnchorDetectorEnsemble(members, lambda logits: logits.mean(dim=0))
    image, mask = padded_images
    logits, attention = ensemble.locate(image, mask, image[:, 0])
    expected = [member.locate(image, mask, image[:, 0])[1] for member in members]
    assert isinstance(ensemble, Locates)
    torch.testing.assert_close(logits, ensemble(image, mask, image[:, 0]))
    torch.testing.assert_close(attention, (expected[0] + expected[1]) / 2)


def test_encoder_decoder_ensemble_of_one_equals_its_member() -> None:
    model = make_encoder_decoder(0)
    image = torch.randn(16, 1, 4, 16, dtype=torch.double)
    assert torch.equal(EncoderDecoderEnsemble([model]).generate(image), model.generate(image))


@pytest.mark.parametrize("count", [2, 3])
@torch.no_grad()
def test_encoder_decoder_ensemble_decodes_the_likeliest_by_mean_probability(count: int) -> None:
    members = [make_encoder_decoder(seed) for seed in range(count)]
    ensemble = EncoderDecoderEnsemble(members)
    image = torch.randn(32, 1, 4, 16, dtype=torch.double)
    tokens = torch.full((32, 1), ensemble.bos_id)
    for _ in range(ensemble.length):  # without a cache
        mean = torch.stack([member(image, tokens)[:, -1].softmax(dim=-1) for member in members]).mean(dim=0)
        likeliest = mean.argmax(dim=-1, keepdim=True)
        finished = (tokens == ensemble.eos_id).any(dim=1, keepdim=True)
        tokens = torch.cat([tokens, torch.where(finished, ensemble.eos_id, likeliest)], dim=1)
    assert torch.equal(ensemble.generate(image), tokens[:, 1:])
    log_probs = ensemble(image, F.pad(tokens[:, 1:-1], (1, 0), value=ensemble.bos_id))
    torch.testing.assert_close(log_probs.exp().sum(dim=-1), torch.ones(32, 4, dtype=torch.double))
