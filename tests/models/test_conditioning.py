"""Conditions of a generator: classes, prompts, and rows of either in one batch."""

import pytest
import torch

from patchwork.models.conditioning import Conditioning

SIZES = {"num_classes": 3, "embed_dim": 16, "text_encoder_depth": 1, "num_words": 9, "prompt_length": 5}


@torch.no_grad()
def test_prompts_replace_classes_row_by_row() -> None:
    conditioning = Conditioning(**SIZES).double().eval()
    label = torch.tensor([0, 1, 3, 2])
    prompt = torch.tensor([[1, 2, 0, 0, 0], [0, 0, 0, 0, 0], [8, 2, 3, 4, 5], [1, 2, 0, 0, 0]])
    cond = conditioning(label, prompt)
    assert torch.allclose(cond[0], cond[3])  # the same prompt, other classes
    assert torch.equal(cond[1], conditioning(label)[1])  # no words: the class
    assert torch.allclose(cond[2], conditioning(label[2:3], prompt[2:3])[0])  # whatever the rest of the batch
    assert torch.allclose(conditioning(label[:1], prompt[:1, :2]), cond[:1])  # padding is masked
    swapped = prompt[:1, [1, 0, 2, 3, 4]]
    assert not torch.allclose(conditioning(label[:1], swapped), cond[:1])  # the order of words matters


def test_without_a_text_encoder_prompts_are_ignored_and_cannot_be_aligned() -> None:
    conditioning = Conditioning(**{**SIZES, "text_encoder_depth": 0})
    label, prompt = torch.tensor([0, 3]), torch.tensor([[1, 2], [3, 0]])
    assert torch.equal(conditioning(label, prompt), conditioning(label))
    with pytest.raises(ValueError, match="text_encoder_depth"):
        conditioning.alignment_loss(label, prompt)


def test_alignment_loss_is_the_distance_to_the_class_and_trains_the_text_encoder_only() -> None:
    conditioning = Conditioning(**SIZES)
    label, prompt = torch.tensor([0, 2]), torch.tensor([[1, 2, 0, 0, 0], [3, 0, 0, 0, 0]])
    loss = conditioning.alignment_loss(label, prompt)
    distance = conditioning.text_encoder(prompt) - conditioning.class_embed(label)
    torch.testing.assert_close(loss, distance.square().mean())
    loss.backward()
    assert conditioning.class_embed.weight.grad is None
    assert conditioning.text_encoder.proj.weight.grad.any()
