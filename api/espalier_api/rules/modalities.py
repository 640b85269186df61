"""Rules about what the features are: ids of tokens are no numbers that one could move a little."""

from __future__ import annotations

from typing import TYPE_CHECKING

from espalier_api.rules.rule import Objection, Objections, Subject, rule

if TYPE_CHECKING:
    from collections.abc import Iterator


@rule(
    "R41",
    "error",
    message="ids of tokens are names, not numbers",
    remedy="Use engine.torch with architecture tokenTransformer, and blocks that leave inputs alone",
)
def tokens_are_names(subject: Subject) -> Objections:
    """Id 17 is not between 16 and 18: who scales, adds noise, blends or follows a gradient there makes ids that mean something else. The
    network needs an embedding, which is what tokenTransformer (or your own module) begins with.
    """
    tokens = subject.data.preprocessing is not None and subject.data.preprocessing.tokens is not None
    torch = subject.engine.torch
    embeds = torch is not None and torch.architecture.token_transformer is not None
    if embeds and not tokens:
        yield Objection(
            "engine.torch.architecture.tokenTransformer",
            message="tokenTransformer reads ids of tokens, and the features are numbers",
            remedy="Declare data.preprocessing.tokens, or use tabularTransformer",
        )
    if not tokens:
        return
    if torch is None or not (embeds or torch.architecture.custom is not None):
        yield Objection("engine", message="this engine would take ids of tokens for numbers")
    for block, what, remedy in _disturbing(subject):
        yield Objection(f"regularizers.{block}", message=f"{block} {what} ids of tokens", remedy=remedy)


def _disturbing(subject: Subject) -> Iterator[tuple[str, str, str]]:
    """(block, what it would do, remedy) of declared blocks that change raw inputs."""
    blocks = subject.regularizers
    if blocks.noise_injection is not None and blocks.noise_injection.site == "input":
        yield "noiseInjection", "adds noise to", "Set regularizers.noiseInjection.site: activation or weight"
    if blocks.augmentation is not None and blocks.augmentation.policy not in {"none", "tabular.swapNoise"}:
        yield (
            "augmentation",
            "changes",
            "Set regularizers.augmentation.policy: tabular.swapNoise, which takes other texts' tokens",
        )
    if blocks.adversarial is not None:
        yield "adversarial", "follows the gradient towards", "Drop adversarial"
    if blocks.batch_mixing is not None:
        yield "batchMixing", "blends", "Drop batchMixing"
