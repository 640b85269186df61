"""The demo's data: scikit-learn's handwritten digits, split into two snapshots and live traffic.

A snapshot is ordered by `collected`, so that the manifests' time split makes its oldest rows the training rows. 30 % of the labels of
those rows, and of no others, are replaced by a uniformly random class: the validation, calibration and test labels stay clean, which is
what makes the offline accuracies comparable with live ones.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIVE_ROWS = 400
TRAIN_SHARE = 0.3  # what `split` in examples/quickstart leaves for training: 1 - 0.1 - 0.1 - 0.5
NOISE_SHARE = 0.3
RESCALE = 255 / 16  # the export fault of the second snapshot: 0-255 instead of the data's own 0-16


@dataclass(frozen=True, slots=True)
class Digits:
    """Rows for training (`pixels` [n, 64] in 0-16, noisy `labels` [n]) and clean rows for live traffic."""

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]
    randomised: int
    live_pixels: NDArray[np.float32]
    live_labels: NDArray[np.int64]


def load_digits(seed: int = 7) -> Digits:
    """Shuffle the 1,797 digits with `seed`, keep `LIVE_ROWS` aside, randomise 30 % of the training rows' labels."""
    from sklearn.datasets import load_digits as bundled

    rng = np.random.default_rng(seed)
    data = bundled()
    order = rng.permutation(len(data.target))
    pixels = data.data[order].astype(np.float32)
    labels = data.target[order].astype(np.int64)
    live_pixels, live_labels = pixels[:LIVE_ROWS], labels[:LIVE_ROWS]
    pixels, labels = pixels[LIVE_ROWS:], labels[LIVE_ROWS:].copy()
    training = int(len(labels) * TRAIN_SHARE)
    noisy = rng.choice(training, size=int(training * NOISE_SHARE), replace=False)
    labels[noisy] = rng.integers(0, 10, size=len(noisy))
    return Digits(pixels, labels, len(noisy), live_pixels, live_labels)


def snapshot_parquet(digits: Digits, *, scale: float = 1.0) -> bytes:
    """One parquet file: px00 … px63 (float32), label (string), collected (minutes since the start, int64)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, object] = {
        f"px{i:02d}": digits.pixels[:, i] * np.float32(scale) for i in range(digits.pixels.shape[1])
    }
    columns["label"] = [str(label) for label in digits.labels]
    columns["collected"] = np.arange(len(digits.labels), dtype=np.int64)
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def live_rows(digits: Digits) -> bytes:
    """The load generator's rows as npz: `x` float32 [n, 64] in the data's own scale, `y` class names [n]."""
    sink = io.BytesIO()
    np.savez_compressed(sink, x=digits.live_pixels, y=np.array([str(label) for label in digits.live_labels]))
    return sink.getvalue()
