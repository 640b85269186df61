"""What contract tests of several components share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract import seaweedfs

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[seaweedfs.S3]:
    """One SeaweedFS for all tests that ask for it; each uses prefixes of its own."""
    with seaweedfs.running(tmp_path_factory.mktemp("seaweedfs")) as store:
        yield store
