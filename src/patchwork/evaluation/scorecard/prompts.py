"""Whether generated images show what prompts ask for."""

from collections.abc import Iterator

import torch

from patchwork.data.prompts import PromptKind, prompts
from patchwork.data.rng import make_rng
from patchwork.evaluation.scorecard.base import Score, fraction, generate_images
from patchwork.evaluation.scorecard.features import FeatureClassifier
from patchwork.models.generator import Generator, SamplingOptions

NUM_PROMPTS = 1000  # of each score
KINDS: dict[str, tuple[dict[PromptKind, str], str]] = {  # by score: kinds with a key of their random stream, meaning
    "train": ({"numbers": "numbers", "sums": "sums"}, "prompts of the training grammar"),
    "held_out_phrasing": ({"held_out_phrasings": "new_phrasings"}, "prompts in held-out phrasings"),
    "held_out_sum": ({"held_out_sums": "new_sums"}, "held-out sums and differences"),
}


def prompt_scores(classifier: FeatureClassifier, generator: Generator, options: SamplingOptions) -> Iterator[Score]:
    """Score how often the classifier predicts what a prompt asks for, for training prompts and held-out ones."""
    for name, (kinds, meaning) in KINDS.items():
        correct = []
        for kind, key in kinds.items():
            prompt_set = prompts(kind)
            num_valid = int((prompt_set.digits < generator.num_classes).sum())  # they are in order of their digits
            indices = torch.randperm(num_valid, generator=make_rng("asked", key))[: NUM_PROMPTS // len(kinds)]
            target = prompt_set.digits[indices]
            label = torch.full_like(target, generator.null_class)
            image = generate_images(
                generator, label, "asked", key, prompt=prompt_set.token_ids[indices], options=options
            )
            correct.append(classifier.predict(classifier.features(image)) == target)
        yield Score(f"prompt_accuracy/{name}", fraction(torch.cat(correct)), None, meaning)
