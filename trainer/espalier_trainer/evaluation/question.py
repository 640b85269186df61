"""What a job asks about its fits, from its declarations and from the version before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from espalier_trainer.evaluation import predecessor, selective
from espalier_trainer.evaluation.robustness import Attack
from espalier_trainer.evaluation.stress import Question

if TYPE_CHECKING:
    from collections.abc import Callable

    from espalier_api.training import TrainingJob
    from espalier_trainer.engines import FitData
    from espalier_trainer.evaluation.predecessor import Predecessor
    from espalier_trainer.storage import ObjectStore


def question_of(
    job: TrainingJob, open_store: Callable[[str, str], ObjectStore], positive: int | None, data: FitData
) -> Question:
    """`positive` is the index of task.positiveClass."""
    abstention = job.regularizers.abstention
    return Question(
        positive=positive,
        attack=attack_of(job),
        max_risk=selective.MAX_RISK if abstention is None else abstention.max_risk,
        certainty=selective.CONFIDENCE if abstention is None else abstention.confidence,
        safety=data.held_out.get("safety"),
        predecessor=_predecessor(job, open_store),
    )


def attack_of(job: TrainingJob) -> Attack | None:
    """evaluation.robustness, else the ball of regularizers.adversarial; None when nobody asks."""
    if job.robustness is not None:
        return Attack(job.robustness.epsilon, job.robustness.norm, job.robustness.steps)
    block = job.regularizers.adversarial
    return None if block is None else Attack(block.epsilon, block.norm)


def _predecessor(job: TrainingJob, open_store: Callable[[str, str], ObjectStore]) -> Predecessor | None:
    if job.parent is None or job.parent_artifact is None:
        return None
    return predecessor.load(open_store(job.parent_artifact.uri, "parentArtifact.uri"), job.parent)
