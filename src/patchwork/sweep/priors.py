"""From what the values of a parameter are sampled, by the names of W&B's distributions.

https://docs.wandb.ai/models/sweeps/sweep-config-keys#distribution-options-for-random-and-bayesian-search
"""

import math
import sys
from dataclasses import dataclass
from typing import Any, Self

import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

MAX_GRID = 1000  # values of one parameter that are listed
NUM_SIGMAS = 4  # at which normal distributions are cut off
MAX_EXPONENT = math.log(sys.float_info.max)

LISTED = {"constant", "categorical", "categorical_w_probabilities"}
EXPONENTS = {"log_uniform", "q_log_uniform", "inv_log_uniform"}  # min and max are exponents of e
NORMAL = {"normal", "q_normal", "log_normal", "q_log_normal"}
UNIFORM = {
    "int_uniform",
    "uniform",
    "q_uniform",
    "log_uniform_values",
    "q_log_uniform_values",
    "inv_log_uniform_values",
    *EXPONENTS,
}
KINDS: dict[str, tuple[set[str], set[str]]] = {  # the keys that a distribution needs, and those that it may have
    "constant": ({"value"}, set()),
    "categorical": ({"values"}, {"probabilities"}),
    "categorical_w_probabilities": ({"values", "probabilities"}, set()),
    **{kind: ({"min", "max"}, {"q"} if kind.startswith("q_") else set()) for kind in UNIFORM},
    **{kind: (set(), {"mu", "sigma", "q"} if kind.startswith("q_") else {"mu", "sigma"}) for kind in NORMAL},
}


@dataclass(frozen=True)
class Prior:
    """Optuna's distribution of a parameter, and what W&B's distributions have beyond it.

    Args:
        distribution: the values that are allowed.
        quantum: of which all values are multiples.
        probabilities: of the values of a categorical distribution.
        mu: the mean of a normal distribution.
        sigma: its standard deviation; None if the distribution is not normal.
        log: whether the logarithm is normally distributed.
    """

    distribution: BaseDistribution
    quantum: float | None = None
    probabilities: list[float] | None = None
    mu: float = 0.0
    sigma: float | None = None
    log: bool = False

    @classmethod
    def between(cls, kind: str, low: float, high: float, quantum: float | None) -> Self:
        """Return a uniform distribution, or one whose logarithm is uniform.

        Raises:
            ValueError: if the limits are not allowed.
            OverflowError: if they or their distance are too large.
        """
        if kind in EXPONENTS:
            # log(1/x) is uniform where log(x) is
            low, high = (-high, -low) if kind.startswith("inv_") else (low, high)
            low, high = math.exp(low), math.exp(high)
        if kind == "int_uniform" and not (isinstance(low, int) and isinstance(high, int)):
            raise ValueError("min and max must be whole numbers")
        log = "log_" in kind
        if log and low <= 0:
            raise ValueError(f"min={low} must be above 0")
        if kind == "int_uniform":
            return cls(IntDistribution(int(low), int(high)))
        if kind.startswith("q_"):
            return cls.quantized(low, high, 1 if quantum is None else quantum, log=log)
        return cls(finite_interval(low, high, log=log))

    @classmethod
    def quantized(cls, low: float, high: float, quantum: float, *, log: bool = False) -> Self:
        """Return the multiples of `quantum` between two limits; 0 is left out above which both are."""
        first, last = round(low / quantum), round(high / quantum)
        if low > 0:
            first = max(first, 1)
        if last < first:
            raise ValueError(f"no multiple of q={quantum} is between min and max")
        if isinstance(quantum, int):
            return cls(IntDistribution(first * quantum, last * quantum, log, 1 if log else quantum), quantum)
        low, high = (float(f"{multiple * quantum:.12g}") for multiple in (first, last))
        return cls(FloatDistribution(low, high, log, None if log else quantum), quantum)

    @classmethod
    def normal(cls, kind: str, *, mu: float, sigma: float, quantum: float | None) -> Self:
        """Return a normal distribution, or one whose logarithm is normal.

        Raises:
            ValueError: if no multiple of the quantum is within it.
            OverflowError: if its values are too large.
        """
        log = "log_" in kind
        low, high = mu - NUM_SIGMAS * sigma, mu + NUM_SIGMAS * sigma
        if log:
            low, high = math.exp(low), math.exp(high)
        quantum = (quantum or 1) if kind.startswith("q_") else None
        prior = cls(finite_interval(low, high)) if quantum is None else cls.quantized(low, high, quantum)
        return cls(prior.distribution, quantum, mu=mu, sigma=sigma, log=log)

    @property
    def is_weighted(self) -> bool:
        """Whether it has a shape that Optuna does not know."""
        return self.probabilities is not None or self.sigma is not None

    @property
    def num_values(self) -> float:
        """How many values there are; infinite if it is continuous."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return len(distribution.choices)
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        if isinstance(distribution, FloatDistribution) and self.quantum is None:
            return math.inf
        return round((distribution.high - distribution.low) / (self.quantum or 1)) + 1

    def grid(self) -> list[Any]:
        """Return all values; of a continuous distribution its middle alone, and of too many the first and the last."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return list(distribution.choices)
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        low, high = distribution.low, distribution.high
        if math.isinf(self.num_values):
            return [math.sqrt(low * high) if distribution.log else (low + high) / 2]
        if self.num_values > MAX_GRID:
            return [low, high]
        step = self.quantum or 1
        return [self.round(low + index * step) for index in range(int(self.num_values))]

    def sample(self, rng: torch.Generator) -> Any:
        """Return a sample of a distribution that Optuna does not know."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            weights = torch.tensor(self.probabilities, dtype=torch.float64)
            return distribution.choices[int(torch.multinomial(weights, 1, generator=rng))]
        assert self.sigma is not None
        value = self.mu + self.sigma * float(torch.randn((), generator=rng, dtype=torch.float64))
        return self.round(math.exp(min(value, MAX_EXPONENT)) if self.log else value)

    def round(self, value: Any) -> Any:
        """Round a number to a multiple of the quantum, or to four significant digits if it is continuous."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return value
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        if self.quantum is not None:
            value = round(value / self.quantum) * self.quantum
            value = value if isinstance(self.quantum, int) else float(f"{value:.12g}")
        elif isinstance(distribution, FloatDistribution):
            value = float(f"{value:.4g}")
        return min(max(value, distribution.low), distribution.high)


def finite_interval(low: float, high: float, *, log: bool = False) -> FloatDistribution:
    """Return the numbers between two limits.

    Raises:
        OverflowError: if their distance is infinite.
    """
    if not math.isfinite(high - low):
        raise OverflowError
    return FloatDistribution(low, high, log=log)
