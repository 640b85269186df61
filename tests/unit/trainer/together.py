"""One of two processes that fit the same small problems; `python -m tests.unit.trainer.together RANK PORT FOLDER`.

The same `CASES` are solved alone by the test, and the weights are compared.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from espalier_trainer import peers
from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.engines.torch.world import Together
from espalier_trainer.errors import PreemptedError
from espalier_trainer.protocol import Reference
from tests.unit.trainer.problems import classification, regression, solve
from tests.unit.trainer.sessions import Interrupted

if TYPE_CHECKING:
    from espalier_trainer.engines.torch.loop import Fit

COCKTAIL: dict[str, dict[str, Any]] = {
    "classRebalancing": {"method": "inverse"},
    "labelSmoothing": {"epsilon": 0.1},
    "l2": {"strength": 1e-2},
    "gradientClipping": {"maxNorm": 0.5},
    "weightAveraging": {"decay": 0.9},
    "earlyStopping": {"patience": 3},
    "noiseInjection": {"std": 0.2},
}
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "nothing": {},
    "cocktail": COCKTAIL,
    "mixup": {"batchMixing": {"alpha": 0.4}},
    "sparse": {"l1": {"strength": 1e-3}, "structuredSparsity": {"strength": 1e-3}},
    "sigma": {"spectralNorm": {"strength": 0.1}, "weightDecay": {"strength": 0.1}},
    "margin": {"maxMargin": {}},
    "robust": {"robustLoss": {"kind": "gce"}, "augmentation": {"policy": "tabular.swapNoise"}},
    "mmce": {"calibrationLoss": {"kind": "mmce"}},
    "odds": {"fairness": {"kind": "equalizedOdds", "column": "g", "strength": 3.0}},
    "worstGroup": {"fairness": {"kind": "groupDRO", "column": "g", "strength": 3.0}},
    "oversample": {"classRebalancing": {"method": "oversample"}},
    "distilled": {"distillation": {"teacher": "big", "alpha": 0.5}},
    "near": {"functional": {"prior": "big", "kind": "kl", "strength": 0.5}},
    "pruned": {"pruning": {"sparsity": 0.5, "fineTuneEpochs": 2}},
    "normed": {"normalization": {"kind": "group"}, "reparameterization": {"kind": "weightNorm"}},
    "elastic": {"elasticNet": {"strength": 1e-3}},
    "remembering": {"ewc": {"reference": "big", "strength": 1.0}},
    "ball": {"trustRegion": {"reference": "big", "kind": "l2ball", "radius": 0.5}},
    "divergence": {"trustRegion": {"reference": "big", "kind": "kl", "radius": 0.1}},
    "thin": {"structuredPruning": {"ratio": 0.3, "fineTuneEpochs": 2}},
    "rounded": {"quantization": {"mode": "static"}},
    "laplace": {"bayesian": {"method": "lastLayerLaplace"}},
    "swag": {"bayesian": {"method": "swag"}},
    "soup": {"modelSoup": {"candidates": ["big", "other"]}},
}
"""Without noise of each process's own: these fits are those of one process."""
NOISY: dict[str, dict[str, Any]] = {
    "dropout": {"p": 0.3},
    "noiseInjection": {"site": "gradient", "std": 0.1},
    "weightAveraging": {"decay": 0.9},
    "sparsityPrior": {"kind": "l0", "strength": 1e-3},
    "dropConnect": {"p": 0.1},
}
"""Each process draws masks for its own rows; noise of gradients is drawn alike."""
ROWS, BATCH, STEPS = 90, 21, 15


def teacher() -> dict[str, Reference]:
    draw = np.random.default_rng(5)
    scores = {"train": draw.normal(size=(ROWS, 3))}
    return {name: Reference(f"s3://{name}/", f"sha256:{name}", True, scores, drawn(draw)) for name in ("big", "other")}


def drawn(draw: np.random.Generator) -> dict[str, Any]:
    """Some weights of the network below."""
    shapes = {name: value.shape for name, value in Mlp(5, [12], 3).state_dict().items()}
    return {name: draw.normal(scale=0.3, size=shape).astype(np.float32) for name, shape in shapes.items()}


def fit(declared: dict[str, Any], session: Any = None, *, weighted: bool = True) -> Fit:
    """Batches of 21 and at last 6 rows of 90: shares are uneven."""
    train, held = classification(ROWS, seed=1), classification(60, seed=2)
    torch.manual_seed(0)
    return solve(
        train, declared, kind="adam", rate=0.02, steps=STEPS, batch=BATCH, model=Mlp(5, [12], 3).double(), validation=held,
        session=session, groups={"g": (train.x[:, 0] > 0).astype(int)}, references=teacher(),
        weight=np.random.default_rng(4).uniform(0.1, 5.0, ROWS) if weighted else None,
    )  # fmt: skip


def weights(found: Fit) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in found.model.state_dict().items()}


def resumed(after: int) -> dict[str, np.ndarray]:
    """NOISY, cut after some steps and gone on with."""
    session = Interrupted(after)
    try:
        fit(NOISY, session)
    except PreemptedError:
        return weights(fit(NOISY, Interrupted(None, session.saved)))
    raise AssertionError("it was not interrupted")


def line(weight: np.ndarray) -> np.ndarray:
    """One step of size 1 from zero, on all rows of a weighted regression: minus its gradient, bias last."""
    found = solve(regression(), {"sampleWeighting": {"column": "w"}}, rate=1.0, steps=1, weight=weight)
    return np.append(found.parameters["head.weight"].detach().numpy(), found.parameters["head.bias"].detach().numpy())


def line_weights() -> np.ndarray:
    """The second half counts 20 times as much as the first."""
    return np.repeat([0.1, 2.0], 60)


def main(rank: int, port: int, folder: Path) -> None:
    peers.join(Together(peers.Place(rank, 2, rank, 2, f"127.0.0.1:{port}"), lambda: False))
    found = {name: weights(fit(declared, weighted="fairness" not in declared)) for name, declared in CASES.items()}
    found |= {"noisy": weights(fit(NOISY)), "resumed": resumed(7), "line": {"all": line(line_weights())}}
    np.savez(
        folder / f"{rank}.npz", **{f"{case}/{name}": w for case, each in found.items() for name, w in each.items()}
    )  # type: ignore[arg-type]
    peers.current().leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
