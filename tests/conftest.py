"""The fixture `proof` for every test, and `--record-proofs`; see tests/proofs.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from tests.proofs import Proof, record

if TYPE_CHECKING:
    from collections.abc import Generator

MEASURED = pytest.StashKey[list[Proof]]()
PASSED = pytest.StashKey[bool]()


class Prove(Protocol):
    """Assert that a figure meets its bar, and keep it for docs/proofs.json."""

    def __call__(
        self, block: str, oracle: str, measured: float, at_most: float | None = None, at_least: float | None = None
    ) -> None: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-proofs", action="store_true", help="merge the figures of proofs into docs/proofs.json")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record-proofs") and hasattr(config, "workerinput"):
        raise pytest.UsageError("--record-proofs: figures are merged by one process; drop -n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--record-proofs"):
        record(session.config.stash.get(MEASURED, []))


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Generator[Prove]:
    """`proof(block, oracle, measured, at_most=..., at_least=...)`: fails the test when the figure misses its bar."""
    found: list[Proof] = []

    def prove(
        block: str, oracle: str, measured: float, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        each = Proof(block, oracle, float(measured), at_most, at_least, request.node.nodeid.partition("[")[0])
        each.check()
        found.append(each)

    yield prove
    if request.node.stash.get(PASSED, False):
        request.config.stash.setdefault(MEASURED, []).extend(found)
