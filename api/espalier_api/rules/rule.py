"""The frame of the validator: a rule is a function with an id; adding a rule is adding a function.

Levels: an `error` refuses, a `warning` asks, `automatic` tells what the engine does about it by itself. A rule that leans on the
engine says in `keeps` what that is; while the engine does not (engine_support.KEPT), the same objection is an error.

The same rules run in three places: the controller (`SpecValid`), `espalier lint`, and once more the trainer (exit 42). They see a
`Subject`, which is either a whole spec or what a training Job was told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from espalier_api.data import Data, Task
from espalier_api.engines import Engine
from espalier_api.evaluation import Gate
from espalier_api.regularizers import Regularizers
from espalier_api.rules import engine_support
from espalier_api.search import Search

if TYPE_CHECKING:
    from espalier_api.model import RegularizedModelSpec
    from espalier_api.model_spec import Tracking, Training
    from espalier_api.training import TrainingJob

Level = Literal["error", "warning", "automatic"]
"""An error refuses the spec, a warning is what a careful colleague would ask about, automatic is what the engine does by itself."""
NOTHING_TO_DO = "Nothing to do"


def _gpus(training: Training) -> int:
    """Of one pod: whole devices in the limits."""
    found = (str(value) for name, value in training.resources.limits.items() if name.endswith("/gpu"))
    return sum(int(value) for value in found if value.isdigit())


@dataclass(frozen=True, slots=True)
class Subject:
    """What rules look at. Without gates (in the trainer) a rule about gates has nothing to object to."""

    task: Task
    data: Data
    engine: Engine
    regularizers: Regularizers
    search: Search | None = None
    gates: tuple[Gate, ...] = ()
    processes: int = 1
    """That train together, over all pods; a batch is shared among them."""
    tracking: Tracking | None = None
    """Who else is told about the training."""

    @classmethod
    def of_spec(cls, spec: RegularizedModelSpec) -> Subject:
        """Everything a RegularizedModel says."""
        gpus = _gpus(spec.training)
        one_per_gpu = max(gpus, 1) if spec.engine.torch is not None else 1
        each = one_per_gpu if spec.training.processes_per_node == "auto" else spec.training.processes_per_node
        return cls(
            spec.task,
            spec.data,
            spec.engine,
            spec.regularizers,
            spec.search,
            spec.evaluation.gates,
            spec.training.nodes * each,
            tracking=spec.training.tracking,
        )

    @classmethod
    def of_job(cls, job: TrainingJob, processes: int | None = None) -> Subject:
        """What a training Job was told; `processes` where it is known how many there are, over all pods."""
        each = 1 if job.processes_per_node == "auto" else job.processes_per_node
        count = job.nodes * each if processes is None else processes
        return cls(job.task, job.data, job.engine, job.regularizers, job.search, processes=count, tracking=job.tracking)


@dataclass(frozen=True, slots=True)
class Finding:
    """One objection: which rule, how serious, where, what is wrong, what to do."""

    rule: str
    level: Level
    field: str
    message: str
    remedy: str

    def __str__(self) -> str:
        """`R11: labelSmoothing ... . Add regularizers.calibration ...`."""
        return f"{self.rule}: {self.message}. {self.remedy}"


Check = Callable[[Subject], "Objections"]
Objections = Iterator["Objection"]


@dataclass(frozen=True, slots=True)
class Objection:
    """What a check yields: where, and, where it differs from the rule's own, how serious, what and what to do."""

    field: str
    level: Level | None = None
    message: str | None = None
    remedy: str | None = None
    kept: bool = False
    """The engine sees to it, as `keeps` of the rule says; an error while it does not."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: id (R1-R38 are the guide's), usual level, what is wrong in general, how it is mended, and the check."""

    id: str
    level: Level
    message: str
    remedy: str
    check: Check
    keeps: str = ""
    """What the engine does by itself, for rules that lean on it."""

    @property
    def kept(self) -> bool | None:
        """Whether the engine of this release does what `keeps` says; None for rules that do not lean on it."""
        return self.id in engine_support.KEPT if self.keeps else None

    @property
    def why(self) -> str:
        """The check's docstring on one line: reason and source."""
        return " ".join((self.check.__doc__ or "").split())

    def findings(self, subject: Subject) -> Iterator[Finding]:
        """Every objection of this rule, with the rule's words where the check gave none of its own."""
        for objection in self.check(subject):
            message, remedy = objection.message or self.message, objection.remedy or self.remedy
            level = objection.level or self.level
            if objection.kept and self.kept:
                level, message, remedy = "automatic", f"{message}; the engine sees to it: {self.keeps}", NOTHING_TO_DO
            elif objection.kept:
                level, message = "error", f"{message}; this release does not see to it that {self.keeps}"
            yield Finding(self.id, level, objection.field, message, remedy)


@dataclass(slots=True)
class Registry:
    """Rules in order of their ids."""

    rules: list[Rule] = field(default_factory=list)

    def rule(self, id_: str, level: Level, *, message: str, remedy: str, keeps: str = "") -> Callable[[Check], Check]:
        """Register a check under an id. A second rule with the same id is a programming error."""

        def register(check: Check) -> Check:
            if any(known.id == id_ for known in self.rules):
                raise ValueError(f"rule {id_} is registered twice")
            self.rules.append(Rule(id_, level, message, remedy, check, keeps))
            self.rules.sort(key=lambda rule: (rule.id[0], int(rule.id[1:])))
            return check

        return register


REGISTRY = Registry()
rule = REGISTRY.rule
