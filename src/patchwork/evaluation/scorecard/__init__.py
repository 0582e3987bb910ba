"""Scorecard of a generative model: its likelihood, and the predictions of an independent classifier on its images.

1. The likelihood of the test images: unconditional, class-conditional, and marginalized over classes (`likelihood`).
2. Images of every class, generated with a fixed seed: whether they are copies of training images (`memorization`).
3. A classifier that was trained on real images and never on generated ones: whether it predicts the requested class,
   and how close the distributions of its features are, of generated and of real images (`features`).
4. A new classifier, trained on generated images only and tested on real ones (`cas`).
5. Whether the classifier predicts what prompts ask for (`prompts`), and the speed of generation (`speed`).

Each score comes with that of real images, if defined: of the test images, or of as many training images as were
generated if there are so many.
"""

from patchwork.evaluation.scorecard.report import Scorecard

__all__ = ["Scorecard"]
