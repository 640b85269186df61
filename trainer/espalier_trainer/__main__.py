"""`python -m espalier_trainer`: listens to SIGTERM before it imports what takes seconds, so that a pod sent away while it starts
ends with 75 like any other, and is not charged for it.
"""

from __future__ import annotations

import sys
from importlib import import_module

from espalier_trainer.session import Preemption

if __name__ == "__main__":
    preemption = Preemption()
    preemption.install()
    sys.exit(import_module("espalier_trainer.main").main(preemption=preemption))
