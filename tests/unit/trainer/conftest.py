"""One thread: tests share two cores with everything else, and small matrices gain nothing."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
