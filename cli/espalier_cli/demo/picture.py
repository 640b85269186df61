"""The demo's picture: canary weight, evidence and per-arm rates over one time axis, as recorded while it ran."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from espalier_cli.demo.timeline import Sample

Series = dict[str, tuple[list[float], list[float]]]  # label -> (seconds since the demo began, values)

FLOOR = 1e-3  # the logarithmic axis ends here; evidence against harm goes on towards 0
REQUESTS = 'sum by (version) (rate(inference_requests_total{{namespace="{namespace}", model="digits"}}[10s]))'
WRONG = (
    'sum by (version) (rate(model_feedback_total{{namespace="{namespace}", model="digits", result="wrong"}}[10s]))'
    ' / sum by (version) (rate(model_feedback_total{{namespace="{namespace}", model="digits"}}[10s]))'
)


def rates(prometheus: str, query: str, namespace: str, start: float, end: float) -> Series:
    """A range query at 2 s steps, by version. `start` and `end` are Unix seconds; raises OSError when Prometheus is out of reach."""
    parameters = {"query": query.format(namespace=namespace), "start": f"{start:.0f}", "end": f"{end:.0f}", "step": "2"}
    with urllib.request.urlopen(  # noqa: S310 - our own port-forward
        f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(parameters)}", timeout=10
    ) as answer:
        result: Sequence[Mapping[str, Any]] = json.load(answer)["data"]["result"]
    return {
        row["metric"].get("version", "?"): (
            [float(at) - start for at, _ in row["values"]],
            [float(value) for _, value in row["values"]],
        )
        for row in result
    }


def draw(path: Path, samples: Sequence[Sample], requests: Series, wrong: Series) -> None:
    """Four panels: weight, evidence (log, with the abort line), requests per second by version, wrong answers by version."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (weight, evidence, load, errors) = plt.subplots(
        4, 1, figsize=(11, 11), sharex=True, constrained_layout=True
    )
    seconds = [sample.at for sample in samples]
    weight.step(seconds, [sample.weight for sample in samples], where="post", color="tab:blue")
    _name_canaries(weight, samples)
    weight.set(ylabel="canary weight (%)", ylim=(-3, 103), title="Espalier demo: what the cluster did")
    _draw_evidence(evidence, samples)
    for panel, series, label in ((load, requests, "requests/s"), (errors, wrong, "wrong answers (ratio)")):
        for version, (at, values) in sorted(series.items()):
            panel.plot(at, values, label=version)
        panel.set(ylabel=label)
        panel.legend(loc="upper left")
    errors.set(xlabel="seconds since the demo began", ylim=(0, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_evidence(panel: Any, samples: Sequence[Sample]) -> None:  # noqa: ANN401 - matplotlib's Axes has no useful stubs here
    canaries = sorted({sample.canary for sample in samples if sample.canary})
    names = sorted({name for sample in samples for name in sample.evidence})
    for colour, name in enumerate(names):
        for index, canary in enumerate(canaries):  # one line per canary: evidence starts anew with each
            seen = [(s.at, max(s.evidence[name], FLOOR)) for s in samples if s.canary == canary and name in s.evidence]
            label = name if index == 0 else None
            panel.plot([at for at, _ in seen], [value for _, value in seen], label=label, color=f"C{colour}")
    limits = [limit for sample in samples for limit in sample.abort_at.values()]
    if limits:
        panel.axhline(max(limits), color="tab:red", linestyle="--", label=f"abort at {max(limits):.0f}")
    panel.set(ylabel="evidence of harm", yscale="log")
    if names:
        panel.legend(loc="upper left")


def _name_canaries(panel: Any, samples: Sequence[Sample]) -> None:  # noqa: ANN401 - as above
    named: set[str] = set()
    for sample in samples:
        if sample.canary and sample.weight and sample.canary not in named:
            named.add(sample.canary)
            panel.annotate(sample.canary, (sample.at, sample.weight), xytext=(4, 6), textcoords="offset points")
