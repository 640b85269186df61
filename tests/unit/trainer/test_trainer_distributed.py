"""Several processes give what one gives; who dies takes the others along, and the code that tells why comes out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from espalier_api.regularizers import BLOCKS
from espalier_api.rules import engine_support
from espalier_api.training import TrainingResult
from espalier_trainer import launch
from espalier_trainer.engines.torch.objective import Objective
from espalier_trainer.peers import Peers, Place, Sharing
from espalier_trainer.protocol import lookup
from espalier_trainer.session import Preemption
from tests.unit.trainer import jobs, together
from tests.unit.trainer.problems import linear, regression

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Found = dict[str, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two processes came to, by case and parameter."""
    folder, port = tmp_path_factory.mktemp("two"), launch.free_port()
    command = [sys.executable, "-m", "tests.unit.trainer.together"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    both = [subprocess.Popen([*command, str(rank), str(port), str(folder)], env=environment) for rank in range(2)]
    try:
        assert [process.wait(600) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
            process.wait()
    return [_by_case(np.load(folder / f"{rank}.npz")) for rank in range(2)]


def _by_case(saved: Any) -> Found:
    found: Found = {}
    for key in saved.files:
        case, _, name = key.partition("/")
        found.setdefault(case, {})[name] = saved[key]
    return found


@pytest.mark.parametrize("case", together.CASES)
def test_two_processes_are_one(case: str, two: list[Found]) -> None:
    alone = together.weights(together.fit(together.CASES[case], weighted="fairness" not in together.CASES[case]))
    for name, value in alone.items():
        assert np.array_equal(two[0][case][name], two[1][case][name]), name  # the same bits in both
        np.testing.assert_allclose(two[0][case][name], value, atol=1e-9, err_msg=name)


def test_noise_differs_and_weights_do_not(two: list[Found]) -> None:
    """Masks are drawn apart and gradients' noise alike; a fit that was cut in between ends in the same bits."""
    for name, value in two[0]["noisy"].items():
        assert np.array_equal(value, two[1]["noisy"][name]), name
        assert np.array_equal(value, two[0]["resumed"][name]), name
    alone = together.weights(together.fit(together.NOISY))
    assert any(np.abs(alone[name] - value).max() > 1e-6 for name, value in two[0]["noisy"].items())


def test_weighted_means_are_over_all_rows(two: list[Found], proof: Callable[..., None]) -> None:
    """R31. The oracle is the closed form of the gradient; the mean of the two processes' own means is far from it."""
    problem, w = regression(), together.line_weights()
    x = np.column_stack([problem.x, np.ones(len(problem.y))])

    def step(rows: slice) -> np.ndarray:
        return np.asarray((w[rows] * problem.y[rows]) @ x[rows] / w[rows].sum())

    whole, of_means = step(slice(None)), (step(slice(0, 60)) + step(slice(60, None))) / 2
    assert np.abs(of_means - whole).max() > 0.05
    worst = float(np.abs(two[0]["line"]["all"] - whole).max())
    proof("R31", "closed form: gradient of a weighted mean, rows shared by two processes", worst, at_most=1e-12)


def test_a_term_of_weights_alone_is_counted_once() -> None:
    objective = Objective(linear(regression()), [], {}, regression=True, autocast=None, peers=Peers(Place(1, 4)))
    w = torch.tensor(3.0, requires_grad=True)
    term = objective._part(w.square())
    term.backward()  # type: ignore[no-untyped-call]
    assert (term.item(), w.grad.item()) == (9.0, 1.5)  # type: ignore[union-attr]


def test_shares_cover_a_batch() -> None:
    for rows in (0, 1, 2, 7, 64):
        for size in (1, 2, 3, 8):
            shares = [Peers(Place(rank, size)).own(rows) for rank in range(size)]
            assert [i for share in shares for i in range(share.start, share.stop)] == list(range(rows))
            lengths = [share.stop - share.start for share in shares]
            assert max(lengths) - min(lengths) <= 1


def test_what_is_shared_is_what_the_rules_say() -> None:
    """A new block is refused until somebody looked at it: the default of its class, and its absence from the table."""
    for name in set(BLOCKS) - engine_support.LOOPS:
        assert (lookup(name).sharing is not Sharing.REFUSED) == (name in engine_support.DISTRIBUTED), name


# --- the launcher -------------------------------------------------------------------------------------------------------
def test_places() -> None:
    torch_engine: dict[str, Any] = {"engine": {"torch": {}}}
    assert launch.places({**torch_engine}, 0, 0, 1) == []
    assert launch.places({"engine": {"sklearn": {}}}, 0, 4, 1) == []
    by_gpu = launch.places({**torch_engine}, 0, 2, 7)
    assert by_gpu == [Place(0, 2, 0, 2, "127.0.0.1:7"), Place(1, 2, 1, 2, "127.0.0.1:7")]
    second = launch.places(
        {**torch_engine, "nodes": 3, "processesPerNode": 2, "rendezvous": "a-0.a.ns.svc:29400"}, 1, 8, 7
    )
    assert [(place.rank, place.size, place.local, place.meet) for place in second] == [
        (2, 6, 0, "a-0.a.ns.svc:29400"), (3, 6, 1, "a-0.a.ns.svc:29400"),
    ]  # fmt: skip


def test_gpus_are_device_files_or_what_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert launch.visible_gpus(tmp_path) == 2
    for named, count in (("0", 1), ("", 0), ("-1", 0), ("0,3", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert launch.visible_gpus(tmp_path) == count


ENDS = {
    "all well": ("0", "0", 0, 0),
    "a final code outranks its echo": ("42", "sleep; 76", 42, 0),
    "also of a process that does not lead": ("sleep; 76", "43", 43, 1),
    "a checkpoint that all agreed on": ("75", "75", 75, 0),
    "an end of its own outranks 75": ("sleep; 75", "1", 1, 1),
    "killed": ("sleep; 76", "kill", 137, 1),
}
SCRIPT = """
import json, os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: None)
rank = int(sys.argv[sys.argv.index("--place") + 1].split("/")[0])
here = pathlib.Path(os.environ["TERMINATION_LOG"]).parent
(here / f"ready-{rank}").touch()
while len(list(here.glob("ready-*"))) < 2: time.sleep(0.01)
for part in sys.argv[1 + rank].split("; "):
    if part == "sleep": time.sleep(0.3)
    elif part == "kill": os.kill(os.getpid(), signal.SIGKILL)
    else:
        outcome = {"0": "Succeeded", "42": "InvalidConfig", "43": "Diverged", "75": "Preempted"}.get(part, "Failed")
        result = {"outcome": outcome, "exitCode": int(part), "message": f"said by {rank}"}
        pathlib.Path(os.environ["TERMINATION_LOG"]).write_text(json.dumps(result))
        sys.exit(int(part))
"""


@pytest.mark.parametrize("case", ENDS)
def test_the_code_that_tells_why_comes_out(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a pod that holds some of four processes, so that nothing is started again."""
    first, second, code, rank = ENDS[case]
    job = tmp_path / "job.json"
    job.write_text('{"nodes": 2, "processesPerNode": 2, "engine": {"torch": {}}, "rendezvous": "a:1"}')
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    program = (sys.executable, "-S", "-c", SCRIPT, first, second)
    assert launch.run(job, [], tmp_path / "term", Preemption(), program) == code
    result = TrainingResult.from_termination_message((tmp_path / "term").read_text())
    assert result.exit_code == code
    assert result.message == ("process 1 of 4 was killed by signal 9" if code == 137 else f"said by {rank}")


def test_processes_that_are_sent_away_before_they_listen_are_preempted(tmp_path: Path) -> None:
    """The pod's SIGTERM came while the launcher was starting: it hands it on to processes that still import."""
    (tmp_path / "job.json").write_text('{"processesPerNode": 2, "engine": {"torch": {}}}')
    preemption = Preemption()
    preemption.request()
    program = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
    assert launch.run(tmp_path / "job.json", [], tmp_path / "term", preemption, program) == 75
    told = TrainingResult.from_termination_message((tmp_path / "term").read_text())
    assert (told.outcome, told.exit_code, told.reason) == ("Preempted", 75, "Preempted")


# --- whole jobs ---------------------------------------------------------------------------------------------------------
PAIR: dict[str, Any] = {"processesPerNode": 2, "regularizers": {"l2": {"strength": 1e-3}, "calibration": {}}}
LONG = {
    "torch": {
        "architecture": {"mlp": {"hidden": [16]}},
        "optimizer": {"adamw": {"learningRate": 0.02}},
        "epochs": 100000,
    }
}


def last_words(folder: Path) -> TrainingResult:
    return TrainingResult.from_termination_message((folder / "term").read_text())


def once_saved(process: Any) -> tuple[list[str], dict[int, int]]:
    """Events until the next checkpoint, and the id of each process that began."""
    said, pids = [], {}
    for entry in process.stdout:
        for event in jobs.events(entry):
            said.append(event["event"])
            if "process" in event:
                pids[int(event["process"].split()[0])] = event["pid"]
            if event["event"] == "checkpoint":
                return said, pids
    raise AssertionError(f"the processes ended first: {said}")


@pytest.mark.slow
def test_a_killed_process_is_made_good_for_and_sigterm_ends_all_at_one_step(tmp_path: Path) -> None:
    """SIGKILL of the second process: both start again from the checkpoint. SIGTERM of the pod: both leave together, with a state."""
    folder, spec = jobs.stage(tmp_path), jobs.job(**PAIR, engine=LONG)
    spec["checkpoint"] = {**spec["checkpoint"], "interval": "100ms"}
    with jobs.start(folder, spec) as process:
        _, pids = once_saved(process)
        os.kill(pids[1], signal.SIGKILL)
        said: list[str] = []
        while "restart" not in said:
            said += once_saved(process)[0]
        assert said.count("resumed") == 2
        process.send_signal(signal.SIGTERM)
        log, _ = process.communicate(timeout=60)
        assert process.returncode == 75, log
    assert last_words(folder).outcome == "Preempted"
    assert list((folder / "models/vision/tiny/.checkpoints/v1").glob("*.safetensors"))
    assert [event["ended"] for event in jobs.events(log) if event["event"] == "processes"] == [{"0": 75, "1": 75}]


def test_what_cannot_be_shared_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = jobs.stage(tmp_path)
    with jobs.start(folder, jobs.job(**{**PAIR, "regularizers": {"adversarial": {}}})) as process:
        log, _ = process.communicate(timeout=60)
        assert process.returncode == 42, log
    assert last_words(folder).exit_code == 42
    assert "R40" in last_words(folder).message


@pytest.mark.slow
def test_loops_walk_in_step_and_the_leader_publishes(tmp_path: Path) -> None:
    """Folds, members and seeds: both processes go through all of them; one of them judges, and nobody waits for ever."""
    folder = jobs.stage(tmp_path)
    blocks = {**PAIR["regularizers"], "ensemble": {"members": 2}, "crossValidation": {"folds": 2}}
    with jobs.start(folder, jobs.job(**{**PAIR, "regularizers": blocks}, seeds=2)) as process:
        log, _ = process.communicate(timeout=600)
        assert process.returncode == 0, log
    told = last_words(folder)
    assert told.digest is not None
    assert told.message == "published"
    (ended,) = [event["ended"] for event in jobs.events(log) if event["event"] == "processes"]
    assert ended == {"0": 0, "1": 0}
    assert len([event for event in jobs.events(log) if event["event"] == "fit"]) == 2
