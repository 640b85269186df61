"""A user's own network: `package.module:function`, called as build(features, outputs) and expected to return a torch.nn.Module that maps
(rows, features) to (rows, outputs).

Everything that could only fail after training is tried at once: the call, the shape, and the graph, which must answer like the network.
Containers are nn.Sequential, or modules with `to_onnx(graph, x) -> str` of their own. Parts that are `layers.Layer` can take what blocks
insert, `head` (nn.Linear) is what blocks of the last layer look for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn

from espalier_trainer.engines.torch.convert import append
from espalier_trainer.engines.torch.converters import CONVERTERS
from espalier_trainer.errors import InvalidConfigError
from espalier_trainer.export.graph import scores_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from espalier_api.engines import CustomArchitecture

FIELD: Final = "engine.torch.architecture.custom.module"
ROWS: Final = 4
PARITY: Final = 1e-4
"""Largest difference between the network and its graph, as for what is served."""


def function(path: str) -> Callable[[int, int], Any]:
    """The function behind `package.module:function`."""
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        what = (
            "is not installed in this image"
            if error.name in {module, module.partition(".")[0]}
            else f"needs {error.name}, which is not"
        )
        raise InvalidConfigError(
            f"{FIELD}: the module {module} {what}; build an image that has it, or mount the package and name it in PYTHONPATH"
        ) from None
    if not callable(found):
        what = (
            f"has no {name}"
            if found is None
            else f"has {name}, but it is a {type(found).__name__} and cannot be called"
        )
        raise InvalidConfigError(f"{FIELD}: {module} {what}; name a function build(features, outputs)")
    return found  # type: ignore[no-any-return]


def unknown(module: nn.Module, path: str = "") -> Iterator[str]:
    """`path (class)` of every part that has no ONNX form."""
    if hasattr(module, "to_onnx") or getattr(module, "identity_in_evaluation", False):
        return
    if isinstance(module, nn.Sequential):
        for name, child in module.named_children():
            yield from unknown(child, f"{path}.{name}".lstrip("."))
    elif not isinstance(module, tuple(CONVERTERS)):
        yield f"{path or 'the network'} ({type(module).__name__})"


def _shape(model: nn.Module, x: torch.Tensor, outputs: int) -> torch.Tensor:
    """Evaluation-mode scores of `x`; refused unless (rows, outputs) and finite."""
    try:
        with torch.no_grad():
            scores: torch.Tensor = model.eval()(x)
    except Exception as error:
        raise InvalidConfigError(
            f"{FIELD}: the network failed on features of shape {tuple(x.shape)}: {type(error).__name__}: {error}"
        ) from error
    shape = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
    if shape != (len(x), outputs):
        raise InvalidConfigError(
            f"{FIELD}: the network answers {tuple(x.shape)} with {shape}; it must be {(len(x), outputs)}, one column per class or one value"
        )
    return scores


def _graph(model: nn.Module, x: torch.Tensor, scores: torch.Tensor) -> None:
    """The exported graph answers as the network does, or it is refused now."""
    import onnxruntime  # noqa: PLC0415 - costs a fifth of a second, and only custom networks need it before the end

    if nameless := list(unknown(model)):
        raise InvalidConfigError(
            f"{FIELD}: no ONNX form is known for {', '.join(nameless)}; use nn.Sequential of known layers, or give the class a "
            "to_onnx(graph, x) method that appends nodes and returns the output's name"
        )
    data = scores_graph(lambda graph, value: append(graph, model, value), x.shape[1], scores.shape[1])
    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        answers = np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    except Exception as error:
        raise InvalidConfigError(f"{FIELD}: the network's graph cannot run: {error}") from error
    difference = np.inf if answers.shape != tuple(scores.shape) else float(np.abs(answers - scores.numpy()).max())
    if not difference <= PARITY:
        raise InvalidConfigError(
            f"{FIELD}: the network's graph answers differently (by {difference:.2g}), so a class has a forward that its converter does "
            "not know; give it a to_onnx(graph, x) of its own"
        )


def build(config: CustomArchitecture, features: int, outputs: int) -> nn.Module:
    """The network that `engine.torch.architecture.custom` names."""
    make = function(config.module)
    try:
        model = make(features, outputs)
    except Exception as error:
        raise InvalidConfigError(
            f"{FIELD}: {config.module} failed for {features} features and {outputs} outputs: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise InvalidConfigError(
            f"{FIELD}: {config.module} returned a {type(model).__name__}; return a torch.nn.Module"
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise InvalidConfigError(f"{FIELD}: {config.module} returned a network without weights to train")
    model = model.float()
    x = torch.linspace(-1.0, 1.0, ROWS * features).reshape(ROWS, features)
    _graph(model, x, _shape(model, x, outputs))
    return model
