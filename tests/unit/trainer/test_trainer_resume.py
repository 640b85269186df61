"""A fit that was killed anywhere ends in the same bits; a state of anything else is refused."""

from __future__ import annotations

import random
import secrets
import signal
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from espalier_api.rules.engine_support import TORCH
from espalier_api.training import TrainingResult
from espalier_trainer import run as trainer_run
from espalier_trainer.attempt import save
from espalier_trainer.checkpoint import Checkpoints, Identity, decode, encode
from espalier_trainer.engines.torch.architectures.mlp import Mlp
from espalier_trainer.errors import PreemptedError
from espalier_trainer.protocol import Regularizer, lookup
from espalier_trainer.storage import FolderStore
from tests.unit.trainer import jobs
from tests.unit.trainer.others import told
from tests.unit.trainer.problems import classification, regression, solve
from tests.unit.trainer.sessions import Interrupted

if TYPE_CHECKING:
    from espalier_trainer.protocol import Reference

STATEFUL: dict[str, dict[str, Any]] = {
    "nothing": {},
    "l2": {"l2": {"strength": 1e-2, "schedule": {"kind": "cosine"}}},
    "l1": {"l1": {"strength": 1e-3}},
    "elasticNet": {"elasticNet": {"strength": 1e-3}},
    "weightDecay": {"weightDecay": {"strength": 0.1}},
    "dropout": {"dropout": {"p": 0.3, "schedule": {"kind": "linear"}}},
    "noise": {"noiseInjection": {"std": 0.3}},
    "weightNoise": {"noiseInjection": {"site": "weight", "std": 0.3}},
    "activationNoise": {"noiseInjection": {"site": "activation", "std": 0.3}},
    "gradientNoise": {"noiseInjection": {"site": "gradient", "std": 0.3}},
    "clipping": {"gradientClipping": {"maxNorm": 0.1}},
    "smoothing": {"labelSmoothing": {"epsilon": 0.1}},
    "robust": {"robustLoss": {"kind": "symmetricCE"}},
    "factors": {"l1": {"strength": 1e-3, "method": "hadamard"}},
    "weightNorm": {"reparameterization": {"kind": "weightNorm"}},
    "groups": {"structuredSparsity": {"strength": 1e-3}},
    "sigma": {"spectralNorm": {"strength": 0.1}},
    "bound": {"spectralNorm": {"mode": "bound", "bound": 0.8}},
    "margin": {"maxMargin": {}},
    "priors": {"classRebalancing": {}},
    "oversample": {"classRebalancing": {"method": "oversample"}},
    "attack": {"adversarial": {"epsilon": 0.3, "steps": 2}, "dropout": {"p": 0.3}},
    "trades": {"adversarial": {"attack": "trades", "norm": "l2", "epsilon": 0.3, "steps": 2}},
    "worstGroup": {"fairness": {"kind": "groupDRO", "column": "g", "strength": 3.0}},
    "mmce": {"calibrationLoss": {"kind": "mmce"}},
    "safety": {"safety": {"dataset": "s3://datasets/safe/"}},
    "dropConnect": {"dropConnect": {"p": 0.3}},
    "augmentation": {"augmentation": {"policy": "tabular.swapNoise"}},
    "mixup": {"batchMixing": {"alpha": 0.4}},
    "bottleneck": {"informationBottleneck": {"dim": 4}},
    "latent": {"latent": {"kind": "centre"}},
    "ema": {"weightAveraging": {"decay": 0.95}},
    "swa": {"weightAveraging": {"kind": "swa"}},
    "qat": {"quantization": {"mode": "qat", "bits": 4, "startEpoch": 0.3}, "dropConnect": {"p": 0.2}},
    "qatAveraged": {"quantization": {"mode": "qat"}, "weightAveraging": {"decay": 0.9}, "l1": {"method": "hadamard"}},
    "stopping": {"earlyStopping": {"patience": 3, "monitor": "refinement"}},
    "batchNorm": {"normalization": {"kind": "batch"}, "weightAveraging": {"decay": 0.9}},
    "depth": {"stochasticDepth": {"p": 0.5, "schedule": {"kind": "linear"}}},
    "samples": {"mcDropout": {}, "dropout": {"p": 0.3}},
    "weighted": {"sampleWeighting": {"column": "w"}},
    "private": {"privacy": {"accountant": "rdp"}, "dropout": {"p": 0.2}},
    "masks": {"pruning": {"sparsity": 0.5, "fineTuneEpochs": 3}, "weightAveraging": {"decay": 0.9}},
    "channels": {"structuredPruning": {"ratio": 0.4, "importance": "taylor", "fineTuneEpochs": 3}},
    "path": {"bayesian": {"method": "swag"}},
    "gates": {"sparsityPrior": {"kind": "l0"}},
    "student": {"distillation": {"teacher": "old"}},
    "oldTask": {"ewc": {"reference": "old"}},
    "region": {"trustRegion": {"kind": "kl", "reference": "old", "radius": 1e-3}},
    "ball": {"trustRegion": {"kind": "l2ball", "reference": "old", "radius": 0.5}},
    "prior": {"functional": {"prior": "old"}},
    "cocktail": {
        "weightDecay": {"strength": 0.1},
        "dropout": {"p": 0.3},
        "noiseInjection": {"std": 0.2},
        "robustLoss": {"kind": "gce"},
        "weightAveraging": {"decay": 0.95},
        "earlyStopping": {"patience": 4},
        "gradientClipping": {"maxNorm": 1.0},
    },
}


AFTERWARDS = {"calibration", "abstention", "modelSoup"}
"""Blocks of POST and SELECT alone: they begin when the last step is done, so no state of a fit is theirs."""
RARELY: dict[str, set[str]] = {"ball": {"trustRegion"}}
"""Cases whose mode keeps no state; another case of the same block does."""


def model(declared: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    hidden = [5] * 6 if "stochasticDepth" in declared else [12]  # R25: at least four residual blocks
    return Mlp(5, hidden, 3, residual=True).double()


@cache
def old() -> Reference:
    """Another task's network, with a Fisher diagonal of ones."""
    problem = classification(90, seed=1)
    fit = solve(problem, {}, kind="adam", rate=0.02, steps=20, batch=30, model=model({}))
    return told(fit, problem, arrays={n: np.ones(p.shape, np.float32) for n, p in fit.parameters.items()})


def run(declared: dict[str, Any], session: Interrupted, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and buffers at the end, and what the blocks have to say."""
    train, held = classification(90, seed=1), classification(60, seed=2)
    fit = solve(
        train, declared, kind=kind, rate=0.02, steps=60, batch=20, model=model(declared), validation=held,
        session=session,
        groups={"g": (train.x[:, 0] > 0).astype(int)},
        weight=1.0 + np.arange(90) % 3 if "sampleWeighting" in declared else None,
        references={"old": old()},
        extra={"safety": classification(40, seed=3)},
    )  # type: ignore[arg-type]  # fmt: skip
    return {name: p.detach().clone() for name, p in fit.model.state_dict().items()}, {
        block.name: block.notes() for block in fit.blocks
    }


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("name", STATEFUL)
def test_resuming_anywhere_ends_in_the_same_bits(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five steps an epoch: step 13 and 37 are inside an epoch, 15 is at its end. Secrets differ, so they must travel."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "one")
    straight, said = run(STATEFUL[name], Interrupted(None), kind)
    kept: dict[str, set[bytes]] = {}
    for after in (1, 13, 15, 37):
        session = Interrupted(after)
        monkeypatch.setattr(secrets, "token_hex", lambda _: "one")
        try:
            run(STATEFUL[name], session, kind)
        except PreemptedError:
            assert session.saved is not None
            for block, state in decode(session.saved)[0]["blocks"].items():
                kept.setdefault(block, set()).add(encode(state, IDENTITY))
            monkeypatch.setattr(secrets, "token_hex", lambda _: "two")
            resumed, repeated = run(STATEFUL[name], Interrupted(None, session.saved), kind)
            assert straight.keys() == resumed.keys()
            for parameter, value in straight.items():
                assert torch.equal(value, resumed[parameter]), (after, parameter)
            assert repeated == said
    for block in keepers() & set(STATEFUL[name]) - RARELY.get(name, set()):
        assert len(kept[block]) > 1, (
            f"the state of {block} is the same after 1, 13, 15 and 37 steps: this case proves nothing"
        )


def keepers() -> set[str]:
    """Blocks whose class says what a resumed fit needs of it."""
    return {name for name in TORCH if lookup(name).state_dict is not Regularizer.state_dict}


def test_every_block_is_killed_somewhere() -> None:
    """A new block cannot be forgotten: each one that acts while weights move has a case, and each that keeps state one that shows it."""
    cases = {block for declared in STATEFUL.values() for block in declared}
    assert cases == TORCH - AFTERWARDS
    assert not keepers() & AFTERWARDS
    shown = {block for name, declared in STATEFUL.items() for block in set(declared) - RARELY.get(name, set())}
    assert keepers() <= shown


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    problem = regression()
    one, two, other = (
        solve(problem, {"noiseInjection": {"std": 0.3}}, steps=40, batch=30, seed=s).parameters["head.weight"]
        for s in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_order_of_declaration_never_matters() -> None:
    cocktail = STATEFUL["cocktail"]
    turned = dict(reversed(list(cocktail.items())))
    one, two = (run(declared, Interrupted(None), "adam")[0] for declared in (cocktail, turned))
    assert all(torch.equal(one[name], two[name]) for name in one)


# --- the store of states -----------------------------------------------------------------------------------------------
STATE = {
    "step": 7,
    "model": {"w": torch.arange(6.0).reshape(2, 3)},
    "best": None,
    "list": [1, 2.5, "x", torch.tensor(3)],
}
IDENTITY = Identity("config", "data", 0, "world")


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_a_state_survives_its_bytes() -> None:
    state, identity = decode(encode(STATE, IDENTITY))
    assert same(STATE, state)
    assert identity == IDENTITY


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_damaged_states_are_recognized(damage: str) -> None:
    whole = encode(STATE, IDENTITY)
    broken = {
        "truncated": whole[:-5],
        "flipped": whole[:-1] + bytes([whole[-1] ^ 1]),
        "empty": b"",
        "foreign": b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
    }[damage]
    with pytest.raises(ValueError, match=r"checkpoint|digest"):
        decode(broken)


def test_two_states_are_kept_and_a_torn_one_falls_back(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    states = Checkpoints(store, IDENTITY)
    for step in range(5):
        states.save({**STATE, "step": step})
    assert [e.key for e in store.entries()] == ["00000004.safetensors", "00000005.safetensors"]
    store.write("00000005.safetensors", b"torn")
    newest = states.newest()
    assert newest is not None
    assert newest[0]["step"] == 3
    states.clear()
    assert states.newest() is None


@pytest.mark.parametrize("field", ["config", "data", "world"])
def test_a_state_of_something_else_is_refused_and_said(
    field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Checkpoints(FolderStore(tmp_path), IDENTITY).save(STATE)
    other = Identity(**{"config": "config", "data": "data", "fit": 0, "world": "world", field: "other"})  # type: ignore[arg-type]
    assert Checkpoints(FolderStore(tmp_path), other).newest() is None
    assert f"it belongs to another {field}; starting fresh" in capsys.readouterr().out


# --- processes ----------------------------------------------------------------------------------------------------------
COCKTAIL_JOB = {
    "regularizers": {**STATEFUL["cocktail"], "earlyStopping": {"patience": 500}, "calibration": {}},
    "engine": {"torch": {"architecture": {"mlp": {"hidden": [32]}}, "epochs": 400, "batchSize": 32}},
    "seeds": 2,
}


def weights(folder: Path) -> bytes:
    return (folder / jobs.VERSION / "model.safetensors").read_bytes()


def wait_for(process: Any, event: str, count: int) -> None:
    """Read the log until `event` was said `count` times."""
    for entry in process.stdout:
        count -= f'"event": "{event}"' in entry
        if count == 0:
            return
    raise AssertionError("the process ended first")


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL at random steps (states every few milliseconds), then SIGTERM, then to the end; against an undisturbed run."""
    straight, disturbed = jobs.stage(tmp_path / "a"), jobs.stage(tmp_path / "b")
    with jobs.start(straight, jobs.job(**COCKTAIL_JOB)) as process:
        log, _ = process.communicate()
        assert process.returncode == 0, log
    often = jobs.job(**COCKTAIL_JOB)
    often["checkpoint"] = {**often["checkpoint"], "interval": "50ms"}
    for number, count in (
        (signal.SIGKILL, random.randint(1, 5)),
        (signal.SIGKILL, random.randint(1, 5)),
        (signal.SIGTERM, 2),
    ):
        with jobs.start(disturbed, often) as process:
            wait_for(process, "checkpoint", count)
            process.send_signal(number)
            process.communicate()
            assert process.returncode == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    with jobs.start(disturbed, often) as process:
        log, _ = process.communicate()
        assert process.returncode == 0, log
    assert "resumed" in [e["event"] for e in jobs.events(log)]
    assert weights(straight) == weights(disturbed)
    assert not list((disturbed / "models/vision/tiny/.checkpoints/v1").glob("*.safetensors"))


def listens(pid: int, number: int) -> bool:
    """Whether the process has a handler of its own for this signal."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_sigterm_while_it_still_imports_is_a_preemption(tmp_path: Path) -> None:
    with jobs.start(jobs.stage(tmp_path), jobs.job()) as process:
        while not listens(process.pid, signal.SIGTERM):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        log, _ = process.communicate(timeout=60)
        assert process.returncode == 75, log
    told = TrainingResult.from_termination_message((tmp_path / "term").read_text())
    assert (told.outcome, told.message.split(";")[0]) == ("Preempted", "SIGTERM before anything was read")


def test_what_selection_saves_keeps_the_fit_that_was_cut(tmp_path: Path) -> None:
    """On resume crossValidation saves once more before the fit goes on; an attempt that dies in between must not begin the fit again."""
    world = SimpleNamespace(open_store=lambda *_: FolderStore(tmp_path))
    about = jobs.parsed(), world, SimpleNamespace(resumable=True, world="w"), SimpleNamespace(snapshot_digest="d")
    save(trainer_run._resumed(*about), {"step": 5})
    trainer_run._resumed(*about).memory.save()
    assert trainer_run._resumed(*about).fit == {"step": 5}
