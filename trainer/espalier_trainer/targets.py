"""Which parameters, layers or features a block touches: `target: {include: [glob], exclude: [glob]}`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from espalier_trainer.errors import InvalidConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from espalier_api.regularizers import Target

#: Biases and norm parameters are not regularized unless a block names them: shrinking them costs fit and buys nothing.
#: `sparsity` is what sparsityPrior learns about a weight, not a weight.
DEFAULT_EXCLUDE: tuple[str, ...] = ("*bias", "*norm.*", "*.sparsity")


_PARAMETRIZED = re.compile(r"parametrizations\.(\w+)\.original\d*$")


def canonical(name: str) -> str:
    """The name that a user knows: `head.parametrizations.weight.original0` is `head.weight`, whatever surgery did to it."""
    return _PARAMETRIZED.sub(r"\1", name)


@dataclass(frozen=True, slots=True)
class Selector:
    """Globs over dotted names; a name is taken when an include matches and no exclude does."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, target: Target | None, *, default_exclude: Sequence[str] = DEFAULT_EXCLUDE) -> Selector:
        """The block's globs. An explicit `exclude` replaces the default one, an explicit `include` alone keeps it."""
        if target is None:
            return cls(exclude=tuple(default_exclude))
        exclude = default_exclude if target.exclude is None else target.exclude
        return cls(include=tuple(target.include or ("*",)), exclude=tuple(exclude))

    def takes(self, name: str) -> bool:
        """True when `name` is selected, by its canonical form."""
        known = canonical(name)
        return any(fnmatchcase(known, glob) for glob in self.include) and not any(
            fnmatchcase(known, glob) for glob in self.exclude
        )

    def choose(self, names: Iterable[str], block: str, kind: str) -> list[str]:
        """The selected names in the given order; a target that selects nothing is an error, never a no-op."""
        known = list(names)
        chosen = [name for name in known if self.takes(name)]
        if not chosen:
            raise InvalidConfigError(
                f"regularizers.{block}.target selects no {kind} (include {list(self.include)}, exclude {list(self.exclude)}); "
                f"this model has {', '.join(known[:12]) or 'none'}"
            )
        return chosen
