"""`python -m espalier_cli`."""

from __future__ import annotations

from espalier_cli.main import run

run()
