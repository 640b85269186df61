"""One look for all pictures: 720 x 420 pixels, readable at 1x, colours that colour-blind eyes tell apart (Okabe and Ito 2008)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREEN: Final = "#009E73"
GREY: Final = "#777777"
PALE: Final = "#D9D9D9"
DPI: Final = 100
SIZE: Final = (7.2, 4.2)
_LOOK: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs everywhere
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#EEEEEE",
    "axes.titlesize": 12,
    "lines.linewidth": 2.0,
}


class Picture:
    """A figure with `panels` axes side by side, or `rows` above each other; never pyplot, whose state is global."""

    def __init__(self, panels: int = 1, rows: int = 1) -> None:
        with mpl.rc_context(_LOOK):
            self._figure = Figure(figsize=SIZE, dpi=DPI)  # fixed margins: a layout engine draws everything twice
            left = 0.1 if panels == 1 else 0.22
            self._figure.subplots_adjust(left=left, right=0.97, bottom=0.14, top=0.91, wspace=0.12, hspace=0.12)
            FigureCanvasAgg(self._figure)
            self.axes: list[Axes] = list(self._figure.subplots(rows, panels, squeeze=False).flat)

    def png(self) -> bytes:
        """The bytes; no software, no date."""
        sink = io.BytesIO()
        with mpl.rc_context(_LOOK):
            self._figure.savefig(sink, format="png", metadata={"Software": None})
        return sink.getvalue()


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Title and axes in words."""
    axes.set_title(title, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
