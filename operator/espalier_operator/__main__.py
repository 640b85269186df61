"""`python -m espalier_operator`."""

from __future__ import annotations

import sys

from espalier_operator.main import run

sys.exit(run())
