"""Reads serving.json."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import ValidationError

from espalier_api.names import split_s3
from espalier_api.serving import ServingConfig
from espalier_server.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def read_config(path: Path) -> ServingConfig:
    """The configuration; unknown fields (a fallback, say) are refused, not ignored. Raises ConfigError that names the
    field.
    """
    try:
        config = ServingConfig.model_validate_json(path.read_bytes())
        split_s3(config.artifact_uri)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; mount the version's ConfigMap there") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()[:5])
        raise ConfigError(f"{path}: {problems}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: artifactUri: {error}") from error
    edges = config.latency_buckets
    if not edges or any(later <= earlier for earlier, later in pairwise(edges)) or edges[0] <= 0:
        raise ConfigError(f"{path}: latencyBuckets: must be positive and strictly increasing, is {list(edges)}")
    return config
