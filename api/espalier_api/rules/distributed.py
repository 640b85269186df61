"""Rules about several processes that train one model: what can be shared among them so that the result is that of one process."""

from __future__ import annotations

from espalier_api.rules.engine_support import DISTRIBUTED, NOT_IN_TRAINING
from espalier_api.rules.rule import Objection, Objections, Subject, rule

ONE_PROCESS = "Set training.nodes and training.processesPerNode to 1"


@rule(
    "R40",
    "error",
    message="several processes cannot share this work and give what one process gives",
    remedy=ONE_PROCESS,
)
def shared_work(subject: Subject) -> Objections:
    """Each process forwards its own rows and takes part in one objective over all rows, so blocks that are functions of scores, weights
    or gradients are exact. Blocks with forward or backward passes of their own are not shared in this release; neither are engines without
    gradients. A search has workers instead: pods of one process each, which take trials from a common list.
    """
    if subject.processes == 1:
        return
    engine, search = subject.engine, subject.search
    if engine.torch is None:
        yield Objection(
            "engine",
            message=f"engine {engine.name} trains in one process, and {subject.processes} are asked for",
            remedy=f"{ONE_PROCESS}, or use engine.torch",
        )
        return
    if search is not None:
        yield Objection(
            "search",
            message=f"trials are shared among pods of one process each, and {subject.processes} processes per trial are asked for",
            remedy=f"{ONE_PROCESS} while searching (search.parallelism trains several trials at once), then fit the winner with more",
        )
    for name, _ in subject.regularizers.declared():
        if name not in DISTRIBUTED | NOT_IN_TRAINING:
            yield Objection(
                f"regularizers.{name}",
                message=f"{name} cannot be shared among {subject.processes} processes",
                remedy=f"{ONE_PROCESS}, or drop {name}",
            )
    quantization = subject.regularizers.quantization
    if quantization is not None and quantization.mode == "qat":
        yield Objection(
            "regularizers.quantization.mode",
            message="qat measures ranges of activations, and each process sees its own rows only",
            remedy=f"{ONE_PROCESS}, or use mode static or dynamic",
        )
