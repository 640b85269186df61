"""One thread: tests share two cores with everything else, and small matrices gain nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))  # `problems` and `jobs` are imported by name under importmode=importlib
torch.set_num_threads(1)
