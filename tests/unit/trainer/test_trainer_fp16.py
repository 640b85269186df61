"""float16: the fit of fp32 up to rounding; a gradient that overflows never reaches the weights; resuming keeps the scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.engines.torch.loop import Fit, Settings, Tensors
from espalier_trainer.engines.torch.optimizers import OptimizerSpec
from espalier_trainer.engines.torch.scaling import ScaledBackward
from espalier_trainer.errors import DivergedError, PreemptedError
from espalier_trainer.peers import ALONE
from espalier_trainer.schedule import ConstantRate
from espalier_trainer.session import Alone
from tests.unit.trainer.problems import blocks, classification, context
from tests.unit.trainer.sessions import Interrupted

if TYPE_CHECKING:
    from espalier_trainer.session import Session

PROBLEM = classification(150, seed=1)
DECLARED: dict[str, Any] = {
    "l2": {"strength": 1e-3},
    "weightAveraging": {"decay": 0.9},
    "gradientClipping": {"maxNorm": 1.0},
}


def fit(autocast: torch.dtype | None, session: Session | None = None, scale: float | None = None) -> Fit:
    """Ten epochs of five batches, in single precision outside of forward and backward."""
    made = blocks(DECLARED)
    for block in made:
        block.plan(context(PROBLEM, epochs=10, steps_per_epoch=5, batch_size=30))
    torch.manual_seed(0)
    settings = Settings(OptimizerSpec("adam"), ConstantRate(0.02), 10, 30, 0, regression=False, autocast=autocast)
    train = Tensors(torch.tensor(PROBLEM.x, dtype=torch.float32), torch.tensor(PROBLEM.y))
    found = Fit(Mlp(5, [12], 3), made, train, None, settings)
    if scale is not None:
        assert isinstance(found.backward, ScaledBackward)
        found.backward.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=7)
    found.run(session or Alone())
    return found


def accuracy(found: Fit) -> float:
    return float((found.scores(found.train.x).argmax(-1) == found.train.y).double().mean())


def test_the_fit_is_that_of_fp32_up_to_rounding() -> None:
    half, single = fit(torch.float16), fit(None)
    assert abs(accuracy(half) - accuracy(single)) <= 0.02
    assert accuracy(half) > 0.75
    for name, value in single.parameters.items():
        assert half.parameters[name].dtype is torch.float32
        torch.testing.assert_close(half.parameters[name], value, atol=0.05, rtol=0.05)


def test_an_overflow_repeats_the_pass_and_loses_no_step() -> None:
    """2^40 is far beyond 65504, so the first passes overflow; the steps are all taken, and the averages saw them all."""
    found = fit(torch.float16, scale=2.0**40)
    assert isinstance(found.backward, ScaledBackward)
    assert found.backward.repeated > 10
    assert found.report.steps == 50
    (average,) = (block for block in found.blocks if block.name == "weightAveraging")
    assert average.state_dict()["seen"] == 50
    assert accuracy(found) == pytest.approx(accuracy(fit(torch.float16)), abs=0.02)


def test_small_gradients_survive() -> None:
    """1e-6 at the end of a chain of factors: less than half of float16's smallest number per element without the scale."""
    w = torch.nn.Parameter(torch.ones(4))
    backward = ScaledBackward(torch.optim.SGD([w], lr=1.0), [w], ALONE)
    backward((w.half() * torch.full((4,), 1e-4, dtype=torch.float16)).float().sum() * 1e-4)
    assert w.grad is not None
    torch.testing.assert_close(w.grad, torch.full((4,), 1e-8), rtol=1e-2, atol=0)


def test_what_never_becomes_finite_ends() -> None:
    """An objective that is no number is left to the log, which ends the fit; a gradient that overflows at any scale ends it here."""
    w = torch.nn.Parameter(torch.zeros(1))
    backward = ScaledBackward(torch.optim.SGD([w], lr=1.0), [w], ALONE)
    backward((w + math.inf).sum())
    with pytest.raises(DivergedError, match="bf16 or fp32"):
        backward(w.sqrt().sum())  # the slope of a root at zero


@pytest.mark.parametrize("after", [1, 13, 25])
def test_resuming_ends_in_the_same_bits(after: int) -> None:
    """The scale grows every seven steps here, so it differs from its start when the fit is cut."""
    straight, session = fit(torch.float16, scale=2.0**20), Interrupted(after)
    with pytest.raises(PreemptedError):
        fit(torch.float16, session, scale=2.0**20)
    resumed = fit(torch.float16, Interrupted(None, session.saved), scale=2.0**20)
    for name, value in straight.parameters.items():
        assert torch.equal(value, resumed.parameters[name]), name
    assert straight.backward.state_dict() == resumed.backward.state_dict()
