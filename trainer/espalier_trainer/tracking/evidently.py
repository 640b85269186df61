"""Evidently's report: do test rows look like training rows, and how well are both answered? HTML for people, JSON for programs.

It shows distributions of rows, so R37 refuses it beside privacy. Its numbers judge nothing: gates look at metrics.json.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from espalier_api import artifact
from espalier_trainer.export.package import answers
from espalier_trainer.log import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from espalier_trainer.data.dataset import Dataset
    from espalier_trainer.engines import Fitted
    from espalier_trainer.evaluation.evaluate import Evaluation
    from espalier_trainer.prepared import Prepared

MOST_ROWS: Final = 5_000
"""Of each part, evenly spaced: the report is for eyes."""
MOST_FEATURES: Final = 100
"""The first ones; a page with more is no page."""
TARGET, PREDICTION = "target", "prediction"
UNKNOWN: Final = "unknown"
"""Shown for a name that training rows do not have."""
PREFIX: Final = "feature "
"""Of a feature that is called like one of the two above."""


def report(fitted: Fitted, evaluation: Evaluation, prepared: Prepared) -> dict[str, bytes]:
    """evidently.html and evidently.json; test rows are `current`, training rows `reference`."""
    os.environ.setdefault("DO_NOT_TRACK", "1")  # it would tell its makers
    library, presets = import_module("evidently"), import_module("evidently.presets")
    test, train = (shown(prepared.parts[name]) for name in ("test", "train"))
    if len(test.features) > MOST_FEATURES:
        say("report-shortened", features=len(test.features), shown=MOST_FEATURES)
    definition = _definition(library, columns(test), classes=len(test.classes))
    current, reference = (
        library.Dataset.from_pandas(_frame(fitted, evaluation, prepared, part), data_definition=definition)
        for part in (test, train)
    )
    quality = presets.ClassificationPreset() if test.classes else presets.RegressionPreset()
    with np.errstate(all="ignore"):
        snapshot = library.Report([presets.DataDriftPreset(), quality]).run(current, reference)
        page = snapshot.get_html_str(as_iframe=False)
        return {artifact.EVIDENTLY_HTML: page.encode(), artifact.EVIDENTLY_JSON: snapshot.json().encode()}


def shown(part: Dataset) -> Dataset:
    """At most MOST_ROWS rows."""
    return part.take(np.unique(np.linspace(0, len(part) - 1, min(len(part), MOST_ROWS)).astype(np.int64)))


def names(features: tuple[str, ...]) -> tuple[str, ...]:
    """Columns of the report, at most MOST_FEATURES."""
    return tuple(f"{PREFIX}{name}" if name in {TARGET, PREDICTION} else name for name in features[:MOST_FEATURES])


def columns(part: Dataset) -> dict[str, npt.NDArray[Any]]:
    """Features of the report, raw: numbers, and names where codes stand for them (None where there is none)."""
    found: dict[str, npt.NDArray[Any]] = {}
    for position, (name, shown_as) in enumerate(zip(part.features, names(part.features), strict=False)):
        values: npt.NDArray[Any] = part.x[:, position].astype(np.float64)
        if (vocabulary := part.vocabulary.get(name)) is not None:
            called = np.asarray([*vocabulary, UNKNOWN], dtype=object)  # code -1 is the last one
            named = called[np.nan_to_num(values).astype(np.int64)]
            named[np.isnan(values)] = None
            values = named
        found[shown_as] = values
    return found


def _definition(library: Any, features: Mapping[str, npt.NDArray[Any]], *, classes: int) -> Any:  # noqa: ANN401 - its types need it imported
    texts = [name for name, values in features.items() if values.dtype == object]
    numbers = [name for name in features if name not in texts]
    if not classes:
        return library.DataDefinition(
            numerical_columns=[*numbers, TARGET, PREDICTION],
            categorical_columns=texts,
            regression=[library.Regression(target=TARGET, prediction=PREDICTION)],
        )
    return library.DataDefinition(
        numerical_columns=numbers,
        categorical_columns=[*texts, TARGET, PREDICTION],
        classification=[library.MulticlassClassification(target=TARGET, prediction_labels=PREDICTION)],
    )


def _frame(fitted: Fitted, evaluation: Evaluation, prepared: Prepared, part: Dataset) -> Any:  # noqa: ANN401 - a pandas.DataFrame
    """Raw features, what is true and what is answered, as a caller would see it."""
    classes = np.asarray(part.classes, dtype=object)
    told = answers(fitted, prepared.preprocessor, len(classes), evaluation, part.x)
    true = classes[part.y] if len(classes) else part.y
    answered = classes[told[artifact.ONNX_LABEL]] if len(classes) else told[artifact.ONNX_VALUE][:, 0]
    return import_module("pandas").DataFrame({**columns(part), TARGET: true, PREDICTION: answered})
