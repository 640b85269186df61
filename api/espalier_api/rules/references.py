"""Rules about other models: teachers, priors and members of a soup. What they are is known when their versions are resolved."""

from __future__ import annotations

from collections import Counter

from espalier_api.rules.rule import Objection, Objections, Subject, rule


@rule(
    "R10",
    "warning",
    message="labelSmoothing on the hard term of a student blurs what the teacher tells",
    remedy="Drop labelSmoothing; the teacher's labels are soft already",
)
def smoothed_student(subject: Subject) -> Objections:
    """Mueller et al. 2019: smoothing erases what classes have in common. A teacher that was smoothed itself is refused when its
    version is resolved.
    """
    blocks = subject.regularizers
    if blocks.label_smoothing is not None and blocks.distillation is not None:
        yield Objection("regularizers.labelSmoothing")


@rule(
    "R27",
    "error",
    message="weights can be averaged only between fits of one architecture and one initialization (others: 74.8 % against 93.5 %)",
    remedy="Drop modelSoup, or use ensemble, which averages predictions",
    keeps="architecture, initialization, classes and preprocessing of all candidates are compared before they are averaged (exit 42)",
)
def soup_of_strangers(subject: Subject) -> Objections:
    """Wortsman et al. 2022. A candidate that is named twice counts twice, which is no soup of several fits."""
    soup = subject.regularizers.model_soup
    if soup is None:
        return
    yield Objection("regularizers.modelSoup", kept=True)
    for name, times in Counter(soup.candidates).items():
        if times > 1:
            yield Objection(
                "regularizers.modelSoup.candidates",
                message=f"candidate {name} is named {times} times and would count as often",
                remedy=f"Name {name} once",
            )


@rule(
    "R33",
    "error",
    message="a model can be referred to only when it exists and answers the same question",
    remedy="Drop the block",
    keeps="the reference is resolved to a version, and its classes, features and preprocessing are compared with ours (exit 42)",
)
def references_fit(subject: Subject) -> Objections:
    """Scores of other classes, or weights of other inputs, mean something else. Compared when the version is resolved."""
    for name, block in subject.regularizers.declared():
        if name in {"ewc", "functional", "trustRegion", "distillation"}:
            told = next(
                str(getattr(block, field)) for field in ("reference", "prior", "teacher") if hasattr(block, field)
            )
            yield Objection(f"regularizers.{name}", message=f"{name} refers to {told}", kept=True)
