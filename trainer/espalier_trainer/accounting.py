"""What DP-SGD costs: (epsilon, delta) of T steps of the Gaussian mechanism on Poisson samples, and the noise that a budget needs.

The mechanism of one step: every row is in the sample with probability q independently, the sum of what rows contribute (norm at most C)
gets noise N(0, (sigma C)^2 I). Neighbouring data differ by one row. The worst pair is P = (1 - q) N(0, sigma^2) + q N(1, sigma^2) against
Q = N(0, sigma^2), in both orders (Mironov, Talwar, Zhang 2019; Zhu, Dong, Wang 2022).

`rdp`: Renyi divergences add up over steps (Mironov 2017); the moment E_Q[(P/Q)^alpha] by quadrature, which also serves
fractional orders; to (epsilon, delta) by Canonne, Kamath, Steinke 2020, proposition 12. `prv`: the distribution of the privacy
loss itself, composed by FFT (Gopi, Lee, Wutschitz 2021): what is returned is their upper bound, at most 0.01 above the truth.
Both are upper bounds, so `prv` returns the smaller of the two. No torch here.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from scipy.special import log_ndtr, logsumexp, ndtr

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Accountant = Literal["prv", "rdp"]

ORDERS: Final = (*(1 + x / 10 for x in range(1, 100)), *range(11, 64), *range(64, 513, 32))
EPSILON_ERROR: Final = 0.01
"""Largest slack of the PRV bound."""
TAILS: Final = 14.0  # deviations after which a Gaussian has no mass in double precision
LARGEST_GRID: Final = 1 << 23
SMALLEST_DELTA: Final = 1e-10  # below this rounding of the FFT is part of the answer
MOST_NOISE: Final = 1e5


# --- Renyi ------------------------------------------------------------------------------------------------------------
def renyi(q: float, sigma: float, order: float) -> float:
    """Renyi divergence of order > 1 of P from Q, one step."""
    if q == 1.0:
        return order / (2 * sigma**2)
    z = np.linspace(-TAILS * sigma, order + TAILS * sigma, int(40 * (2 * TAILS + order / sigma)) + 1)
    ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * z - 1) / (2 * sigma**2))
    density = -(z**2) / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi))
    moment = float(logsumexp(order * ratio + density)) + math.log(z[1] - z[0])  # trapezoids: both ends are 0
    return max(moment, 0.0) / (order - 1)


def rdp_epsilon(q: float, sigma: float, steps: int, delta: float) -> float:
    """Smallest epsilon over ORDERS."""
    if steps == 0:
        return 0.0
    best = math.inf
    for a in ORDERS:
        total = steps * _renyi(q, sigma, float(a))
        best = min(best, total + math.log((a - 1) / a) - (math.log(delta) + math.log(a)) / (a - 1))
    return max(best, 0.0)


_renyi = lru_cache(maxsize=4096)(renyi)


# --- privacy loss -----------------------------------------------------------------------------------------------------
def _position(loss: Floats, q: float, sigma: float) -> Floats:
    """The outcome t at which log P/Q is `loss`; minus infinity where it is always larger."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.expm1(loss) + q  # e^loss - (1 - q)
        found = sigma**2 * (np.log(np.maximum(inside, 0.0)) - math.log(q)) + 0.5
    return np.where(inside > 0, found, -np.inf)


def _below(loss: Floats, q: float, sigma: float, *, removed: bool) -> Floats:
    """P(privacy loss <= loss): of log P/Q under P when a row is removed, of log Q/P under Q when one is added."""
    if removed:
        t = _position(loss, q, sigma)
        return np.asarray((1 - q) * ndtr(t / sigma) + q * ndtr((t - 1) / sigma))
    return np.asarray(ndtr(-_position(-loss, q, sigma) / sigma))


def _mean(q: float, sigma: float, *, removed: bool) -> float:
    """Of the privacy loss of one step, by quadrature."""
    t = np.linspace(-TAILS * sigma, 1 + TAILS * sigma, 200_001)
    ratio = np.logaddexp(math.log1p(-q) if q < 1 else -np.inf, math.log(q) + (2 * t - 1) / (2 * sigma**2))
    density = np.exp(-(t**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    weight = density * np.exp(ratio) if removed else -density
    return float((weight * ratio).sum() * (t[1] - t[0]))


def _composed(q: float, sigma: float, steps: int, delta: float, *, removed: bool) -> tuple[Floats, Floats] | None:
    """(losses, probabilities) of all steps on a grid, or None when the grid would be too large.

    Rounded to the nearest point and shifted so that the mean is kept: errors then grow with the root of the steps.
    """
    error = delta / 1000
    mesh = EPSILON_ERROR / math.sqrt(steps / 2 * math.log(12 / error))
    reach = 3 + max(rdp_epsilon(q, sigma, steps, error / 4), rdp_epsilon(q, sigma, 1, error / (8 * steps)))
    half = math.ceil(reach / mesh)
    if 2 * half + 1 > LARGEST_GRID:
        return None
    grid = np.arange(-half, half + 1) * mesh
    edges = np.append(grid - mesh / 2, grid[-1] + mesh / 2)
    mass = np.maximum(np.diff(_below(edges, q, sigma, removed=removed)), 0.0)
    mass /= mass.sum()
    shift = _mean(q, sigma, removed=removed) - float(mass @ grid)
    spectrum = np.fft.rfft(np.roll(mass, -half)) ** steps
    whole = np.roll(np.fft.irfft(spectrum, len(mass)), half)
    return np.asarray(grid + steps * shift, dtype=np.float64), np.maximum(whole, 0.0)


def prv_epsilon(q: float, sigma: float, steps: int, delta: float) -> float:
    """Upper bound of epsilon from the composed privacy loss, the larger of both orders; infinite when it cannot be computed."""
    if steps == 0:
        return 0.0
    if delta < SMALLEST_DELTA:
        return math.inf
    worst = 0.0
    for removed in (True, False):
        composed = _composed(q, sigma, steps, delta, removed=removed)
        if composed is None:
            return math.inf
        worst = max(worst, _solve(*composed, delta * (1 - 1e-3)) + EPSILON_ERROR)
    return worst


def _solve(losses: Floats, mass: Floats, delta: float) -> float:
    """The epsilon >= 0 at which E[(1 - e^(epsilon - L))_+] is delta; the curve falls, so a bisection is exact."""

    def at(epsilon: float) -> float:
        above = losses > epsilon
        return float(-(mass[above] @ np.expm1(epsilon - losses[above])))

    low, high = 0.0, float(losses[-1])
    if at(low) <= delta:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle) <= delta else (middle, high)
    return high


# --- budget -----------------------------------------------------------------------------------------------------------
def spent(q: float, sigma: float, steps: int, delta: float, accountant: Accountant) -> float:
    """Epsilon of `steps` steps."""
    bound = rdp_epsilon(q, sigma, steps, delta)
    return bound if accountant == "rdp" else min(bound, prv_epsilon(q, sigma, steps, delta))


@lru_cache(maxsize=32)
def noise_for(epsilon: float, delta: float, q: float, steps: int, accountant: Accountant) -> float:
    """The least sigma, to three digits, with which `steps` steps stay within (epsilon, delta). ValueError when there is none.

    By RDP first, which takes microseconds per order and is never far above; PRV then looks below it.
    """
    high = 1.0
    while rdp_epsilon(q, high, steps, delta) > epsilon:
        high *= 2
        if high > MOST_NOISE:
            raise ValueError(f"no noise keeps {steps} steps within epsilon {epsilon:g} at delta {delta:g}")
    high = _bisect(lambda s: rdp_epsilon(q, s, steps, delta) <= epsilon, high / 1024, high)
    if accountant == "rdp":
        return high
    return _bisect(lambda s: spent(q, s, steps, delta, "prv") <= epsilon, high * 0.7, high)


def _bisect(holds: object, low: float, high: float) -> float:
    """The smallest argument, to three digits from above, at which `holds`; it holds at `high` and above where it holds."""
    assert callable(holds)  # noqa: S101 - a narrower type than Callable costs an import at run time
    while high > 1.001 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def gaussian_delta(epsilon: float, sigma: float) -> float:
    """Delta of one full-batch step in closed form (Balle, Wang 2018)."""
    a = 1 / (2 * sigma)
    return float(ndtr(a - epsilon * sigma) - math.exp(epsilon + float(log_ndtr(-a - epsilon * sigma))))
