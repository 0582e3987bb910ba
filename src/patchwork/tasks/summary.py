"""A result in plain words: percent, of how many, and what chance gives."""


def summarize_accuracy(
    accuracy: float, num_samples: int, what: str, *, chance: float | None, guess: str = "chance"
) -> str:
    """Return a result such as `98.68 % of 10,000 test grids are read without an error (chance: 0.01 %)`.

    Args:
        accuracy: fraction of the samples that are correct.
        num_samples: number of samples tested.
        what: what they are, and what is said of the correct ones.
        chance: accuracy without a look at the samples; None if it is unknown.
        guess: description of the guess that reaches it.
    """
    sentence = f"{format_percent(accuracy, num_samples)} of {num_samples:,} test {what}"
    return sentence if chance is None else f"{sentence} ({guess}: {format_chance(chance)})"


def format_percent(fraction: float, num_samples: int) -> str:
    """Return a fraction of samples in percent, with the digits that so many samples can tell apart."""
    if fraction in (0, 1):
        return f"{100 * fraction:.0f} %"
    return f"{100 * fraction:.{2 if num_samples >= 1000 else 1}f} %"


def format_chance(probability: float) -> str:
    """Return a probability in percent, with two significant digits unless it is tiny."""
    if probability < 1e-4:
        return "below 0.01 %"
    return f"{float(f'{100 * probability:.2g}'):g} %"
