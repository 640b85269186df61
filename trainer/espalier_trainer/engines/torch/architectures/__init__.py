"""One file per architecture; each has `build(config, features, outputs) -> nn.Module`, made of `layers.Layer`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.protocol import snake_case

if TYPE_CHECKING:
    from torch import nn

    from espalier_api.engines import Architecture
    from espalier_api.preprocessing import Tokens


def build(architecture: Architecture, features: int, outputs: int, tokens: Tokens | None = None) -> nn.Module:
    """The declared network with fresh weights from torch's generator; InvalidConfigError when no file implements it. `tokens` tells what
    ids the features are, where they are ids.
    """
    ((name, config),) = declared(architecture).items()
    module = f"{__package__}.{snake_case(name)}"
    try:
        make = import_module(module).build
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise InvalidConfigError(f"engine.torch.architecture: {name} is not implemented by this trainer") from None
    if name == "tokenTransformer":
        if tokens is None:
            raise InvalidConfigError(
                "R41: engine.torch.architecture.tokenTransformer: declare data.preprocessing.tokens"
            )
        config = (config, tokens)
    return cast("nn.Module", make(config, features, outputs))


def declared(architecture: Architecture) -> dict[str, Any]:
    """{camelCase name: settings} of the one architecture that is set."""
    return {
        field.alias or name: value
        for name, field in type(architecture).model_fields.items()
        if (value := getattr(architecture, name)) is not None
    }
