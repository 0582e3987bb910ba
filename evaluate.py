"""Evaluate a finished run again on the held-out split: `python evaluate.py run=outputs/seq2seq/encoder_decoder/…`.

A generator also gets its scorecard: `python evaluate.py run=outputs/pixels/… judge=outputs/classify/vit/…`.
"""

from omegaconf import DictConfig

from patchwork.cli import command


@command("evaluate")
def main(config: DictConfig) -> None:
    from patchwork.evaluate import evaluate

    evaluate(config)


if __name__ == "__main__":
    main()
