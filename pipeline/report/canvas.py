"""What all figures of the report share: style, colours, and the way to PNG bytes.

Nothing here touches matplotlib's global state.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

DPI = 110
INK = "#222831"
MUTED = "#6b7280"
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, which all people can tell apart."""

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#9aa1ab",
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.prop_cycle": "cycler('color', ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00',"
    " '#56b4e9', '#000000'])",
}


def to_png(draw: Callable[[Figure], None], size_in: tuple[float, float]) -> bytes:
    """Draw a figure of a size in inches and return it as PNG."""
    with rc_context(STYLE):
        figure = Figure(figsize=size_in, dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        buffer = io.BytesIO()
        # Without the software's name in it the same data give the same bytes.
        # Tight, because slices of equal scale rarely fill the space that the layout gives them.
        figure.savefig(
            buffer, format="png", metadata={"Software": None}, bbox_inches="tight", pad_inches=0.05
        )
        return buffer.getvalue()


def disc(ax: Axes, title: str) -> None:
    """Frame of a key drawn from -1 to 1."""
    ax.add_patch(Circle((0, 0), 1.0, fill=False, ec="#9aa1ab", lw=1.0))
    ax.set_xlim(-1.3, 1.3)
    ax.set_ylim(-1.3, 1.3)
    ax.set_aspect("equal")
    ax.axis("off")
    ax.set_title(title)


def percentile_limits(values: NDArray[np.floating], share: float) -> tuple[float, float]:
    """Limits that leave out `share` of the finite values at either end; never of zero width."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.quantile(finite, [share, 1.0 - share]))
    return low, high if high > low else low + 1.0
