"""The artifact of a version: which files it has and the manifest that makes it complete and immutable."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from espalier_api.base import StatusModel
from espalier_api.durations import Timestamp
from espalier_api.hashing import DIGEST_PATTERN, sha256
from espalier_api.names import API_VERSION
from espalier_api.search_result import SearchSummary

MANIFEST: Final = "manifest.json"
MODEL_ONNX: Final = "model.onnx"
MODEL_INT8: Final = "model.int8.onnx"
MODEL_WEIGHTS: Final = "model.safetensors"
PREPROCESSING: Final = "preprocessing.json"
GOLDEN: Final = "golden.npz"
METRICS: Final = "metrics.json"
REGULARIZERS: Final = "regularizers.json"
REFERENCE: Final = "reference.json"
LINEAGE: Final = "lineage.json"
MODEL_CARD: Final = "MODEL_CARD.md"
PICTURES: Final = "pictures/"
"""Prefix of pictures; the only names with a slash."""
EVIDENTLY_HTML: Final = "evidently.html"
"""Drift and performance of the test rows for people; the same numbers for programs are in EVIDENTLY_JSON."""
EVIDENTLY_JSON: Final = "evidently.json"
SBOM: Final = "sbom.cdx.json"
SIGNATURE: Final = "model.sig"
ALIASES: Final = "aliases.json"
"""Beside the versions of a model, not inside one: the last aliases a rollout recorded."""

REQUIRED_FILES: Final = (MODEL_ONNX, PREPROCESSING, GOLDEN, METRICS, REGULARIZERS, REFERENCE, LINEAGE, MODEL_CARD)
"""Files that every manifest lists. Weights and int8 depend on engine and spec; versions of before 0050 have no SBOM.

The signature is in no manifest: it signs the manifest, so that it can be renewed without another version (docs/adr/0050).
"""

GOLDEN_ROWS: Final = 64
GOLDEN_TOLERANCE: Final = 1e-4
"""Largest allowed absolute difference of an output on the golden inputs between training and serving."""
ONNX_INPUT: Final = "input"
CATEGORIES: Final = "categories"
"""A second tensor of requests, BYTES [rows, columns], where a model has columns whose values are names."""
ONNX_LABEL: Final = "label"
ONNX_PROBABILITIES: Final = "probabilities"
ONNX_VALUE: Final = "value"

Datatype = Literal["BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"]
"""Open Inference Protocol v2 names."""


class Tensor(StatusModel):
    """A named input or output; -1 in `shape` is the batch."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]


class CategoryColumn(StatusModel):
    """A column whose values are names."""

    name: str
    values: tuple[str, ...]
    """The vocabulary, in the order of the codes that the graph's input holds: 0, 1, … A value outside of it is -1."""
    unknown: Literal["ignore", "error"] = "ignore"
    """Whether a request may hold a value outside of the vocabulary."""


class WindowShape(StatusModel):
    """How the features of a window stand in a row of the input: those of the first column, oldest first, then those of the next."""

    columns: tuple[str, ...]
    length: int
    horizon: int = 0
    """How many steps after the window's last row the answer is about."""


class TokenShape(StatusModel):
    """A row of the input is a text: ids of tokens from 0 to vocabulary - 1, and padding up to the number of features."""

    vocabulary: int
    padding: int = 0


class ManifestTask(StatusModel):
    """What the model answers, with everything inferred from data made explicit."""

    type: Literal["classification", "regression"]
    classes: tuple[str, ...] = ()
    """Class names in the order of the probabilities; empty for regression."""
    positive_class: str | None = None
    features: tuple[str, ...]
    """Columns of `input`, in order, raw: preprocessing is inside the graph."""
    nullable: bool = False
    """Whether a feature may be missing (null in JSON, NaN in the graph)."""
    windows: WindowShape | None = None
    """Present where a row of the input is a window of a series, flattened."""
    tokens: TokenShape | None = None
    """Present where all features are ids of tokens."""
    categories: tuple[CategoryColumn, ...] = ()
    """The last of the features: clients send their values as text, in the tensor `categories`, and the server makes them codes."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    min_confidence: float | None = Field(default=None, ge=0, le=1)
    """What the block `abstention` promised: less sure answers are not given (outcome `rejected`)."""
    served: Literal["model.onnx", "model.int8.onnx"] = MODEL_ONNX
    """The graph that answers, and that was judged. Of a quantized version that is the one in integers; model.onnx is its twin in floats."""

    @property
    def vocabulary(self) -> dict[str, tuple[str, ...]]:
        """Values of each column of names, in the order of their codes."""
        return {column.name: column.values for column in self.categories}


class FileEntry(StatusModel):
    """Size and digest of one file."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class MetricValue(StatusModel):
    """A number with its 95 % interval and sample count, when there is one."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


class Manifest(StatusModel):
    """manifest.json: written last, never overwritten. Its presence makes a version complete, its bytes make the version's digest."""

    api_version: Literal["espalier.dev/v1alpha1"] = API_VERSION
    kind: Literal["ModelVersion"] = "ModelVersion"
    namespace: str
    model: str
    version: str
    spec_hash: str
    snapshot_digest: str = Field(pattern=DIGEST_PATTERN)
    content_sha256: str
    """sha256 over the content that was read, hexadecimal; the lineage's proof beyond ETags."""
    created_at: Timestamp
    seed: int
    parent: str | None = None
    """The champion when training began."""
    requested_by: str = "spec"
    """`spec` or `retrain/<policy>@<id>`."""
    task: ManifestTask
    framework: str
    """Engine and version, e.g. `torch 2.6.0`."""
    files: dict[str, FileEntry]
    metrics: dict[str, MetricValue]
    tracking: dict[str, str] = Field(default_factory=dict)
    """Where each tracker of training.tracking can be read: an address, or a file's name."""
    search: SearchSummary | None = None
    """What its search came to, when there was one; status tells it from here, also when the pod is gone."""


def version_digest(manifest: bytes) -> str:
    """The digest of a version: `sha256:<hex>` of the bytes of its manifest.json."""
    return sha256(manifest)
