"""The engine of a job, with the loops that its selection blocks put around it: an ensemble of paths of fits."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

from espalier_trainer import engines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from espalier_api.regularizers import Block
    from espalier_api.training import TrainingJob
    from espalier_trainer.engines import Engine

    Load = Callable[[Mapping[str, Block]], Engine]

LOOPS: Final = ("regularizationPath", "ensemble")
"""Blocks that are engines around the engine, from the innermost."""
ABOVE: Final = ("crossValidation",)
"""Blocks that act before the fit that is shipped."""


def engine(job: TrainingJob) -> Engine:
    """`engine.<name>` with the blocks it knows itself, inside the loops that are declared."""
    (name, config), *_ = job.engine.chosen().items()
    declared: dict[str, Any] = dict(job.regularizers.declared())
    own = {block: declared[block] for block in declared if block not in {*LOOPS, *ABOVE}}

    def plain(blocks: Mapping[str, Block]) -> Engine:
        return engines.load(name, config, blocks)

    load: Load = plain
    for loop in LOOPS:
        if loop in declared:
            load = _around(loop, declared[loop], load)
    return load(own)


def _around(loop: str, config: Block, inner: Load) -> Load:
    module = {"regularizationPath": "regularization_path", "ensemble": "ensemble"}[loop]

    def load(blocks: Mapping[str, Block]) -> Engine:
        return cast("Engine", import_module(f"{__package__}.{module}").build(config, blocks, inner))

    return load
