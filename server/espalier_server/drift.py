"""Which reference bin does each served value fall into? One integer array per request; the counters add it up (M8).

The reference is reference.json of the artifact: per feature the edges of the training data's deciles and the share of
rows between them. A value on an edge belongs to the bin above it; values beyond the ends belong to the first and last
bin. A reference with `missing` has one more bin, the last, for rows that lack the value. Columns of names have a bin per listed
value and one for all others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from espalier_api.artifact import REFERENCE
from espalier_api.metrics import MAX_FEATURES
from espalier_server.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

MAX_BINS = 64
"""Of one feature; a bin is a series."""
_CHUNK_ROWS = 2048


@dataclass(frozen=True, slots=True)
class FeatureBins:
    """The watched features: column numbers, inner edges padded with +inf [B-1, 1, F], the number of bins of each, and the place of its
    bin for missing values among all bins; None when no feature has one.

    The edges come first: numpy then adds whole rows instead of nine numbers at a time, seven times faster for a batch.
    """

    names: tuple[str, ...]
    columns: NDArray[np.intp]
    edges: NDArray[np.float32]
    offsets: NDArray[np.intp]
    sizes: tuple[int, ...]
    missing: NDArray[np.intp] | None = None
    places: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)  # of names: place by code, the last for -1

    @classmethod
    def of(
        cls,
        reference: Mapping[str, Any],
        features: Sequence[str],
        vocabulary: Mapping[str, tuple[str, ...]] | None = None,
    ) -> FeatureBins:
        """The first 50 features that the reference describes, in the order of the columns. Raises ArtifactError."""
        described = reference.get("features", {})
        if not isinstance(described, dict):
            raise ArtifactError(f"{REFERENCE}: features must be an object")
        watched = [(column, name) for column, name in enumerate(features) if name in described][:MAX_FEATURES]
        names = vocabulary or {}
        listed = {
            at: _listed(name, described[name], names[name]) for at, (_, name) in enumerate(watched) if name in names
        }
        inner = [
            np.arange(1, listed[at].max() + 1, dtype=np.float32)
            if at in listed
            else _inner_edges(name, described[name])
            for at, (_, name) in enumerate(watched)
        ]
        edges = np.full((max(map(len, inner), default=0), 1, len(watched)), np.inf, dtype=np.float32)
        for place, found in enumerate(inner):
            edges[: len(found), 0, place] = found
        lacking = [bool(described[name].get("missing", False)) for _, name in watched]
        sizes = tuple(len(found) + 1 + lacks for found, lacks in zip(inner, lacking, strict=True))
        return cls(
            names=tuple(name for _, name in watched),
            columns=np.array([column for column, _ in watched], dtype=np.intp),
            edges=edges,
            offsets=np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.intp) if sizes else np.empty(0, np.intp),
            sizes=sizes,
            missing=np.cumsum(sizes).astype(np.intp) - 1 if any(lacking) else None,
            places=listed,
        )

    def series(self) -> list[tuple[str, str]]:
        """(feature, bin) of every counter, in the order of `count`."""
        return [(name, str(index)) for name, size in zip(self.names, self.sizes, strict=True) for index in range(size)]

    def count(self, rows: NDArray[np.float32]) -> NDArray[np.intp]:
        """Observations per (feature, bin) in `rows`, float32 [N, all features], flattened as `series` lists them."""
        total = np.zeros(sum(self.sizes), dtype=np.intp)
        for start in range(0, len(rows), _CHUNK_ROWS):
            seen = rows[start : start + _CHUNK_ROWS, self.columns]
            for at, places in self.places.items():
                seen[:, at] = _place(seen[:, at], places)
            bins = np.add.reduce(seen >= self.edges, axis=0, dtype=np.uint16) + self.offsets
            if self.missing is not None:
                bins = np.where(np.isnan(seen), self.missing, bins)
            total += np.bincount(bins.ravel(), minlength=len(total))
        return total


def _place(codes: NDArray[np.float32], places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Codes (rows,) to the bin's number; NaN stays."""
    missing = np.isnan(codes)
    found: NDArray[np.float32] = np.where(missing, codes, places[np.where(missing, -1, codes).astype(np.intp)])
    return found


def _listed(name: str, described: Any, values: tuple[str, ...]) -> NDArray[np.float32]:  # noqa: ANN401 - whatever JSON held
    """The bin of each code: that of its value, or the one of all others, which is also that of -1."""
    problem = f"{REFERENCE}: features.{name}: needs values (text) and ratios (one more than values; one more again if missing)"
    try:
        listed = {value: place for place, value in enumerate(described["values"])}
        bins = len(described["ratios"]) - bool(described.get("missing", False))
    except (TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(problem) from error
    if len(listed) != bins - 1 or bins >= MAX_BINS:
        raise ArtifactError(problem)
    return np.asarray([*(listed.get(value, bins - 1) for value in values), bins - 1], dtype=np.float32)


def _inner_edges(name: str, described: Any) -> NDArray[np.float32]:  # noqa: ANN401 - whatever JSON held
    """The edges between bins; the outermost ones are dropped when the reference has them."""
    problem = (
        f"{REFERENCE}: features.{name}: needs edges (increasing) and ratios (one more or one fewer, at most {MAX_BINS})"
    )
    try:
        edges = np.asarray(described["edges"], dtype=np.float32)
        bins = len(described["ratios"]) - bool(described.get("missing", False))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ArtifactError(problem) from error
    if edges.ndim == 1 and len(edges) == bins + 1:
        edges = edges[1:-1]
    if edges.ndim != 1 or len(edges) != bins - 1 or bins > MAX_BINS or not (np.diff(edges) >= 0).all():
        raise ArtifactError(problem)
    return edges
