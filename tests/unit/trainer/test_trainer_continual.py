"""What keeps an earlier task: elastic weight consolidation and trust regions against closed forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from espalier_trainer.engines.torch import fisher
from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.errors import InvalidConfigError, PreemptedError
from espalier_trainer.protocol import Reference
from espalier_trainer.regularizers.ewc import Ewc
from espalier_trainer.regularizers.trust_region import TrustRegion, apart
from tests.unit.trainer.others import told
from tests.unit.trainer.problems import Problem, classification, linear, regression, solve, weights
from tests.unit.trainer.test_trainer_resume import Interrupted

if TYPE_CHECKING:
    from tests.conftest import Prove

EVERYTHING = {"include": ["*"], "exclude": []}


def mlp(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return Mlp(5, [12], 3).double()


def tasks() -> tuple[Problem, Problem]:
    """Two tasks of other inputs and other boundaries."""
    return classification(150, seed=1), classification(150, seed=4)


def accuracy(fit: Any, problem: Problem) -> float:
    return float((fit.scores(torch.tensor(problem.x)).argmax(-1).numpy() == problem.y).mean())


# --- Fisher -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("exact", [True, False])
def test_fisher_of_a_logistic_model(exact: bool, proof: Prove) -> None:
    """E[x^2 p (1 - p)] exactly, E[x^2 (y - p)^2] at the labels, for every class and feature."""
    problem = classification(classes=3)
    fit = solve(problem, {"l2": {"strength": 0.1}}, steps=300)
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    p = torch.softmax(fit.scores(x), -1)
    residual = p * (1 - p) if exact else (torch.nn.functional.one_hot(y, 3) - p).square()
    expected = {"head.weight": residual.T @ x.square() / len(x), "head.bias": residual.mean(0)}
    found = fisher.diagonal(fit.model, fit.parameters, expected, x, y, exact=exact, regression=False)
    worst = max(float((found[name] - expected[name]).detach().abs().max()) for name in expected)
    proof("ewc", f"Fisher of a logistic model, {'exact' if exact else 'empirical'}", worst, at_most=1e-14)


def test_fisher_of_a_network_is_autograds() -> None:
    """Row by row with torch.autograd, in chunks of any size; regression's exact Fisher is the squared Jacobian."""
    torch.manual_seed(0)
    model, x, y = Mlp(4, [6], 1).double(), torch.randn(20, 4).double(), torch.randn(20).double()
    found = fisher.diagonal(
        model, dict(model.named_parameters()), dict(model.named_parameters()), x, y, exact=True, regression=True
    )
    for name, parameter in model.named_parameters():
        rows = [torch.autograd.grad(model(row[None]).sum(), parameter)[0].square() for row in x]
        torch.testing.assert_close(found[name], torch.stack(rows).mean(0), rtol=1e-12, atol=1e-14)
    assert model.training


# --- EWC --------------------------------------------------------------------------------------------------------------
def test_ewc_on_a_quadratic(proof: Prove) -> None:
    """The optimum is (H + lambda F)^-1 (H b + lambda F a) with b the new task's optimum and a the old weights."""
    problem = regression()
    rng = np.random.default_rng(1)
    old = {"head.weight": rng.normal(size=(1, 10)), "head.bias": rng.normal(size=1)}
    metric = {"head.weight": rng.uniform(0.1, 2, size=(1, 10)), "head.bias": rng.uniform(0.1, 2, size=1)}
    single = [{name: value.astype(np.float32) for name, value in each.items()} for each in (old, metric)]
    reference = Reference("s3://m/v1/", "sha256:1", True, weights=single[0], arrays=single[1])
    blocks = {"ewc": {"reference": "old", "strength": 0.5, "target": EVERYTHING}}
    fit = solve(problem, blocks, rate=0.2, references={"old": reference})
    x = np.c_[problem.x, np.ones(len(problem.y))]
    hessian = x.T @ x / len(x)
    a, f = (np.r_[each["head.weight"][0], each["head.bias"]].astype(np.float64) for each in single)
    b = np.linalg.solve(hessian, x.T @ problem.y / len(x))
    expected = np.linalg.solve(hessian + 0.5 * np.diag(f), hessian @ b + 0.5 * f * a)
    found = np.r_[weights(fit)[0], fit.parameters["head.bias"].detach().numpy()]
    proof("ewc", "closed form (H + lF)^-1 (Hb + lFa)", float(np.abs(found - expected).max()), at_most=1e-9)


def test_ewc_keeps_the_old_task(proof: Prove) -> None:
    old, new = tasks()
    first = solve(old, {}, model=mlp(), kind="adam", rate=0.02, steps=200)
    reference = told(first, old, arrays=packaged(solve_again(old)))
    options: dict[str, Any] = {"kind": "adam", "rate": 0.02, "steps": 200, "references": {"old": reference}}
    plain = solve(new, {"ewc": {"reference": "old", "strength": 0}}, model=mlp(1), **options)
    kept = solve(new, {"ewc": {"reference": "old", "strength": 100}}, model=mlp(1), **options)
    assert accuracy(first, old) > 0.8
    gain = 100 * (accuracy(kept, old) - accuracy(plain, old))
    proof("ewc", "points of accuracy on the old task above plain fine-tuning", gain, at_least=10)
    assert kept.contributions()["ewc"].gradient_ratio is not None


def solve_again(problem: Problem) -> Any:
    """The first task with ewc as a first version: the block rests and measures."""
    return solve(problem, {"ewc": {}}, model=mlp(), kind="adam", rate=0.02, steps=200)


def packaged(fit: Any) -> dict[str, Any]:
    (block,) = (b for b in fit.blocks if isinstance(b, Ewc))
    return load(block.package()["fisher.safetensors"])


def test_a_first_version_trains_plainly_and_leaves_its_fisher() -> None:
    old, _ = tasks()
    plain, resting = solve(old, {}, model=mlp(), kind="adam", rate=0.02, steps=200), solve_again(old)
    for name, weight in plain.parameters.items():
        assert torch.equal(weight, resting.parameters[name])
    x, y = torch.tensor(old.x), torch.tensor(old.y)
    chosen = [n for n in plain.parameters if not n.endswith("bias")]
    expected = fisher.diagonal(plain.model, plain.parameters, chosen, x, y, exact=False, regression=False)
    found = packaged(resting)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-5, atol=1e-9)


def test_older_fishers_decay(proof: Prove) -> None:
    """Schwarz et al. 2018: what is packaged is decay F_old + F_new, F_new at the shipped weights on this job's rows."""
    old, new = tasks()
    before = {"hidden.0.linear.weight": np.full((12, 5), 4, np.float32), "head.weight": np.full((3, 12), 4, np.float32)}
    reference = told(solve(old, {}, model=mlp(), steps=20), old, arrays=before)
    fit = solve(
        new,
        {"ewc": {"reference": "old", "strength": 0.01, "decay": 0.25}},
        model=mlp(),
        steps=20,
        references={"old": reference},
    )
    own = fisher.diagonal(
        fit.model, fit.parameters, before, torch.tensor(new.x), torch.tensor(new.y), exact=False, regression=False
    )
    worst = max(float(np.abs(value - 1 - own[name].numpy()).max()) for name, value in packaged(fit).items())
    proof("ewc", "packaged Fisher: decay F_old + F_new", worst, at_most=1e-6)


def test_without_a_packaged_fisher_it_is_estimated_here() -> None:
    problem = classification()
    first = solve(problem, {}, model=mlp(), steps=100)
    blocks = {"ewc": {"reference": "old", "strength": 10.0, "fisher": "exact"}}
    fit = solve(problem, blocks, model=mlp(), steps=3, references={"old": told(first, problem)})
    (block,) = (b for b in fit.blocks if isinstance(b, Ewc))
    assert block.notes()["fisher"] == "estimated on this job's rows"
    chosen = [n for n in first.parameters if not n.endswith("bias")]
    expected = fisher.diagonal(
        first.model,
        first.parameters,
        chosen,
        torch.tensor(problem.x),
        torch.tensor(problem.y),
        exact=True,
        regression=False,
    )
    for name, value in block._old_fisher().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-8)  # its weights came in float32


def test_a_fisher_of_other_parameters_is_refused() -> None:
    problem = classification()
    arrays = {"head.weight": np.ones((3, 12), np.float32)}
    reference = told(solve(problem, {}, model=mlp(), steps=5), problem, arrays=arrays)
    with pytest.raises(InvalidConfigError, match=r"ewc\.target.*hidden\.0\.linear\.weight"):
        solve(problem, {"ewc": {"reference": "old"}}, model=mlp(), steps=1, references={"old": reference})


# --- trust region -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("radius", [0.001, 0.3])
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_the_ball_is_never_left(radius: float, steps: int, proof: Prove) -> None:
    problem = regression()
    first = solve(problem, {}, steps=20)
    blocks = {"trustRegion": {"kind": "l2ball", "radius": radius, "reference": "old", "target": EVERYTHING}}
    fit = solve(problem, blocks, rate=1.0, kind="adam", steps=steps, references={"old": told(first, problem)})
    start = {n: p.detach().float().double() for n, p in first.parameters.items()}
    away = torch.cat([(p.detach() - start[n]).flatten() for n, p in fit.parameters.items()]).norm()
    proof("trustRegion", "l2ball: ||w - w0|| / radius", float(away) / radius, at_most=1 + 1e-12)
    assert float(away) > 0.9 * radius  # a step of Adam at rate 1 leads out


def test_a_projected_quadratic_is_solved_on_the_sphere(proof: Prove) -> None:
    """Projected gradient ends where ridge around w0 does, for the lambda at which that solution has this radius."""
    problem = regression()
    x = problem.x - problem.x.mean(0)
    problem = Problem(x, problem.y - problem.y.mean())
    model = linear(problem)
    reference = told(solve(problem, {}, steps=0, model=model), problem)
    blocks = {"trustRegion": {"kind": "l2ball", "radius": 0.5, "reference": "old", "target": EVERYTHING}}
    fit = solve(problem, blocks, references={"old": reference})
    low, high = 0.0, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        ridge = np.linalg.solve(x.T @ x / len(x) + middle * np.eye(10), x.T @ problem.y / len(x))
        low, high = (middle, high) if np.linalg.norm(ridge) > 0.5 else (low, middle)
    proof(
        "trustRegion",
        "l2ball: ridge at the multiplier of the radius",
        float(np.abs(weights(fit)[0] - ridge).max()),
        at_most=1e-9,
    )


@pytest.mark.parametrize("radius", [0.001, 0.05])
@pytest.mark.parametrize("steps", [1, 5, 40])
def test_the_divergence_is_never_exceeded(radius: float, steps: int, proof: Prove) -> None:
    """Full batches, so the bound on the batch is the bound on the data; other labels pull away from the reference."""
    problem = classification()
    first = solve(problem, {}, model=mlp(), kind="adam", rate=0.02, steps=100)
    pulled = Problem(problem.x, np.roll(problem.y, 1), 3)
    blocks = {"trustRegion": {"radius": radius, "reference": "old"}}
    references = {"old": told(first, problem)}
    fit = solve(pulled, blocks, model=mlp(1), rate=0.1, kind="adam", steps=steps, references=references)
    p = torch.softmax(first.scores(torch.tensor(problem.x)), -1).numpy()
    q = torch.softmax(fit.scores(torch.tensor(problem.x)), -1).numpy()
    proof(
        "trustRegion",
        "KL to the reference / radius",
        float((p * np.log(p / q)).sum(1).mean()) / radius,
        at_most=1.00001,
    )
    (block,) = (b for b in fit.blocks if isinstance(b, TrustRegion))
    assert block.notes() | {"reference": ""} == {"reference": "", "bounded": block.bounded, "steps": steps}
    assert block.bounded > 0 or steps < 40


@pytest.mark.parametrize("kind", ["kl", "l2ball"])
def test_a_small_radius_freezes(kind: str, proof: Prove) -> None:
    problem = classification()
    first = solve(problem, {}, model=mlp(), kind="adam", rate=0.02, steps=100)
    blocks = {
        "trustRegion": {
            "kind": kind,
            "radius": 1e-12,
            "reference": "old",
            **({"target": EVERYTHING} if kind == "l2ball" else {}),
        }
    }
    fit = solve(problem, blocks, model=mlp(1), steps=20, batch=40, references={"old": told(first, problem)})
    moved = max(
        float((p.detach() - first.parameters[n].float()).detach().abs().max()) for n, p in fit.parameters.items()
    )
    proof("trustRegion", f"{kind}: largest move at radius 1e-12", moved, at_most=1e-5)


def test_batches_that_disagree_are_pulled_back() -> None:
    """Weights that earlier batches allowed may be too far on this one: then they go back towards the reference."""
    problem = classification()
    reference = told(solve(problem, {}, model=mlp(), kind="adam", rate=0.02, steps=100), problem)
    pulled = Problem(problem.x, np.roll(problem.y, 1), 3)
    blocks = {"trustRegion": {"radius": 0.01, "reference": "old"}}
    fit = solve(pulled, blocks, model=mlp(1), rate=0.1, kind="adam", steps=75, batch=10, references={"old": reference})
    batch = fit.fit_view.batch
    assert batch is not None
    expected = torch.tensor(reference.scores["train"])[batch.index]
    assert float(apart(expected, fit.scores(batch.x))) <= 0.01 * 1.00001


def test_a_bound_that_would_not_hold_is_refused() -> None:
    problem = classification()
    reference = {"old": told(solve(problem, {}, steps=1), problem)}
    with pytest.raises(InvalidConfigError, match=r"trustRegion\.target"):
        solve(problem, {"trustRegion": {"reference": "old", "target": EVERYTHING}}, steps=1, references=reference)
    with pytest.raises(InvalidConfigError, match="weightAveraging"):
        solve(problem, {"trustRegion": {"reference": "old"}, "weightAveraging": {}}, steps=1, references=reference)


# --- state ------------------------------------------------------------------------------------------------------------
RESUMED: dict[str, dict[str, Any]] = {
    "ewc": {"ewc": {"reference": "old", "strength": 1.0}},
    "kl": {"trustRegion": {"reference": "old", "radius": 0.01}},
    "l2ball": {"trustRegion": {"reference": "old", "kind": "l2ball", "radius": 0.1}},
    "l2sp": {"functional": {"prior": "old", "kind": "l2sp"}},
    "soft": {"functional": {"prior": "old"}, "distillation": {"teacher": "old"}},
}


@pytest.mark.parametrize("name", RESUMED)
def test_resuming_anywhere_ends_in_the_same_bits(name: str) -> None:
    old, new = tasks()
    references = {"old": told(solve(old, {}, model=mlp(), steps=30), old)}

    def run(session: Interrupted) -> Any:
        options: dict[str, Any] = {"kind": "adam", "rate": 0.02, "steps": 20, "batch": 40, "references": references}
        return solve(new, RESUMED[name], model=mlp(1), session=session, **options)  # type: ignore[arg-type]

    straight = run(Interrupted(None)).parameters
    for after in (1, 6, 20):
        session = Interrupted(after)
        with pytest.raises(PreemptedError):
            run(session)
        resumed = run(Interrupted(None, session.saved)).parameters
        assert all(torch.equal(value, resumed[parameter]) for parameter, value in straight.items())
