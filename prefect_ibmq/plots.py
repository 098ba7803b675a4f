"""Pictures of counts, as PNG files; needs the `plot` extra."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

from prefect_ibmq.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["new_figure", "plot_counts", "png_of"]

_PANELS_ACROSS = 3
_MOST_PANELS = 12
_MOST_BARS = 10
_DPI = 110
_BAR = "#0f62fe"
_REST = "#a8a8a8"


def plot_counts(counts: pd.DataFrame, title: str) -> bytes:
    """Draw the likeliest outcomes of each circuit: one panel a circuit and register, probabilities as bars.

    Args:
        counts: Rows of the counts table; columns `circuit`, `position`, `register`, `bitstring`, `count`, `shots`.
        title: What stands above.

    Returns:
        A PNG.

    Raises:
        ConfigurationError: The `plot` extra is not installed.
    """
    _canvas()  # before anything else: without the extra there is no point in looking at the counts
    keys = ["position", "parameter_index", "circuit", "register"]
    panels = list(counts.groupby([key for key in keys if key in counts], sort=True, dropna=False))
    shown = panels[:_MOST_PANELS]
    across = min(_PANELS_ACROSS, max(len(shown), 1))
    down = -(-max(len(shown), 1) // across)
    figure = new_figure(5.0 * across, 3.1 * down + 0.7)
    rest = f" (first {len(shown)} of {len(panels)})" if len(panels) > len(shown) else ""
    figure.suptitle("\n".join(textwrap.wrap(title + rest, 100)), fontsize=12)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis, (_, rows) in zip(axes, shown, strict=False):
        _panel(axis, rows)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    return png_of(figure)


def _canvas() -> tuple[Any, Any]:
    try:
        # The object interface: pyplot keeps figures alive and picks a window system.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError(
            "Plots need matplotlib, which is not installed.", hint="Install it: pip install 'prefect-ibmq[plot]'."
        ) from error
    return Figure, FigureCanvasAgg


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches.

    Raises:
        ConfigurationError: The `plot` extra is not installed.
    """
    figures, canvas = _canvas()
    figure = figures(figsize=(width, height), dpi=_DPI, layout="constrained")
    canvas(figure)
    return figure


def png_of(figure: Any) -> bytes:
    """A figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _panel(axis: Any, rows: pd.DataFrame) -> None:
    measured = rows[rows["bitstring"].notna()].sort_values(["count", "bitstring"], ascending=[False, True])
    shots = int(rows["shots"].iloc[0])
    top = measured.head(_MOST_BARS)
    labels = [_short(text) for text in top["bitstring"]]
    shares = [count / shots for count in top["count"]] if shots else []
    colours = [_BAR] * len(labels)
    others = len(measured) - len(top)
    if others > 0:
        labels.append("1 other" if others == 1 else f"{others} others")
        shares.append(float(measured["count"].iloc[_MOST_BARS:].sum()) / shots)
        colours.append(_REST)
    places = range(len(labels))
    axis.barh(places, shares, height=0.7, color=colours)
    axis.set_ylim(-0.6, max(len(labels), 4) - 0.4)
    axis.set_yticks(places, labels, fontsize=8, family="monospace")
    axis.invert_yaxis()
    axis.set_xlim(0, 1.12)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axis.set_xlabel("share of shots", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    name, register = str(rows["circuit"].iloc[0]), str(rows["register"].iloc[0])
    axis.set_title(f"{_short(name, 28)} · {register} · {shots:,} shots", fontsize=9)
    for place, share in zip(places, shares, strict=True):
        axis.text(share + 0.01, place, f"{share:.3f}", va="center", fontsize=7)


def _short(text: str, most: int = 18) -> str:
    return text if len(text) <= most else f"{text[: most - 9]}…{text[-8:]}"
