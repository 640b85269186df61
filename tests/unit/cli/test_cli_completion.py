from __future__ import annotations

from typing import TYPE_CHECKING

from espalier_cli import completion

if TYPE_CHECKING:
    import pytest


def test_commands_come_first() -> None:
    assert completion.offers(["pr"]) == ["promote"]
    assert {"get", "lint", "skip-step", "demo"} <= set(completion.offers([]))


def test_then_names_and_never_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No cluster: nothing to offer, and nothing printed but the directive."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path_factory.mktemp("none") / "kubeconfig"))
    assert completion.offers(["get", "di"]) == []
    assert completion.offers(["get", "--"]) == []


def test_kubectl_gets_lines_and_a_directive(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["kubectl_complete-espalier", "ab"])
    completion.run()
    assert capsys.readouterr().out.split() == ["abort", ":4"]


def test_rules_come_after_explain() -> None:
    assert completion.offers(["lint", "--explain", "R3"])[:3] == ["R3", "R30", "R31"]
    assert completion.offers(["lint", "--explain", "r38"]) == ["R38"]
