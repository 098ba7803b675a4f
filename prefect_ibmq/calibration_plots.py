"""Pictures of calibrations, as PNG files: the device as a map, two calibrations beside each other, values over time.

What is missing or not calibrated is drawn grey and dashed, never as a number. Needs the `plot` extra.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from prefect_ibmq.device_layout import couplings_of, positions_of
from prefect_ibmq.drift import payload_of
from prefect_ibmq.plots import new_figure, png_of
from prefect_ibmq.success import MEASURE, ErrorRates

if TYPE_CHECKING:
    import pandas as pd

    from prefect_ibmq.archive.datasets import Archive
    from prefect_ibmq.drift import Calibration, CalibrationDrift, Change

__all__ = ["plot_comparison", "plot_device", "plot_device_history", "plot_history"]

_NODES, _EDGES = "viridis_r", "plasma_r"
_ABSENT = "#b0b0b0"
_WORSE, _BETTER = "#da1e28", "#198038"
_MOST_BARS = 14
_RATIOS = (0.01, 0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4, 10, 100)
_FRACTIONAL = "rzz"  # a second gate on the same edges; the edge is coloured by its main one


@dataclass(frozen=True)
class _Map:
    """What is drawn of one calibration."""

    title: str
    readout: list[float | None]
    edges: dict[tuple[int, int], float | None]


def plot_device(calibration: Calibration, configuration: Mapping[str, Any] | None = None, title: str = "") -> bytes:
    """Draw a device as a map: qubits coloured by readout error, edges by the error of their two-qubit gate.

    Args:
        calibration: A payload, a `PropertiesRecord`, a loaded `BackendRecord`, or what an archive gives.
        configuration: The backend's configuration; with it the map has the service's own layout, without it one that
            is worked out from the edges.
        title: What stands above; the device and the calibration's date if empty.

    Returns:
        A PNG.

    Raises:
        ConfigurationError: The `plot` extra is not installed.
    """
    payload = payload_of(calibration)
    drawn = _map_of(payload, configuration, title or _named(payload))
    points = _points(payload, configuration)
    width, height = _size(points)
    figure = new_figure(width + 1.6, height + 0.9)
    _draw_maps(figure, [figure.subplots()], [drawn], points)
    return png_of(figure)


def plot_comparison(
    drift: CalibrationDrift,
    before: Calibration,
    after: Calibration,
    configuration: Mapping[str, Any] | None = None,
) -> bytes:
    """Draw two calibrations of a device beside each other, on one scale of colours, and what moved most.

    Args:
        drift: What `compare_calibrations` gives of them.
        before: The earlier one.
        after: The later one.
        configuration: The backend's configuration, for the service's own layout.

    Returns:
        A PNG.

    Raises:
        ConfigurationError: The `plot` extra is not installed.
    """
    old, new = payload_of(before), payload_of(after)
    points = _points(max(new, old, key=lambda payload: len(payload["qubits"])), configuration)
    width, height = _size(points)
    changes = drift.moved_most(most=_MOST_BARS)
    bars = 0.26 * max(len(changes), 3) + 0.9
    figure = new_figure(2 * width + 1.6, height + bars + 1.1)
    figure.suptitle(f"{drift.backend}: what moved between two calibrations", fontsize=12)
    upper, lower = figure.subfigures(2, 1, height_ratios=(height + 0.6, bars))
    maps = [_map_of(old, configuration, _date(drift.before)), _map_of(new, configuration, _date(drift.after))]
    _draw_maps(upper, list(upper.subplots(1, 2)), maps, points)
    _draw_changes(lower.subplots(), changes)
    return png_of(figure)


def _named(payload: Mapping[str, Any]) -> str:
    from prefect_ibmq.archive.dates import parse_date

    return f"{payload.get('backend_name') or 'device'}, {_date(parse_date(payload.get('last_update_date')))}"


def _date(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "date unknown"


def _points(payload: Mapping[str, Any], configuration: Mapping[str, Any] | None) -> Any:
    qubits = len(payload.get("qubits") or [])
    return positions_of(qubits, _edges(payload, configuration), (configuration or {}).get("coords"))


def _edges(payload: Mapping[str, Any], configuration: Mapping[str, Any] | None) -> list[tuple[int, int]]:
    qubits = len(payload.get("qubits") or [])
    return [pair for pair in couplings_of(payload, configuration) if max(pair) < qubits]


def _map_of(payload: Mapping[str, Any], configuration: Mapping[str, Any] | None, title: str) -> _Map:
    rates = ErrorRates(payload)
    pairs = {
        (str(gate["gate"]), tuple(gate["qubits"]))
        for gate in payload.get("gates") or []
        if len(gate.get("qubits") or ()) == 2 and gate.get("gate") != _FRACTIONAL
    }
    best: dict[tuple[int, int], float | None] = dict.fromkeys(_edges(payload, configuration))
    for gate, (a, b) in sorted(pairs):
        error, edge = rates.get((gate, (a, b))), (min(a, b), max(a, b))
        if error is not None and error < 1 and edge in best:
            best[edge] = min(error, best[edge] or error)
    qubits = range(len(payload.get("qubits") or []))
    readout = [error if (error := rates.get((MEASURE, (q,)))) is not None and error < 1 else None for q in qubits]
    return _Map(title, readout, best)


def _size(points: Any) -> tuple[float, float]:
    """Inches of a map: about 0.42 a coupling, within what a screen shows."""
    spans = [float(axis.max() - axis.min()) + 1.5 for axis in points.T] if len(points) else [3.0, 3.0]
    scale = min(0.42, 9.0 / max(spans))
    return max(scale * spans[0], 3.2), max(scale * spans[1], 2.4)


def _scale(values: Iterable[float | None]) -> Any:
    from matplotlib.colors import LogNorm

    known = [value for value in values if value is not None and value > 0]
    low, high = (min(known), max(known)) if known else (1e-4, 1e-1)
    return LogNorm(vmin=low / 1.05, vmax=high * 1.05)


def _draw_maps(figure: Any, axes: Sequence[Any], maps: Sequence[_Map], points: Any) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    nodes = _scale(value for each in maps for value in each.readout)
    edges = _scale(value for each in maps for value in each.edges.values())
    for axis, each in zip(axes, maps, strict=True):
        _draw_map(axis, each, points, (nodes, colormaps[_NODES]), (edges, colormaps[_EDGES]))
    size = {"fraction": 0.03, "pad": 0.02, "aspect": 30}
    for norm, colours, text in ((nodes, _NODES, "readout error"), (edges, _EDGES, "two-qubit gate error")):
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=list(axes), **size)
        bar.set_label(text, fontsize=8)
        bar.ax.tick_params(labelsize=7, which="both")


def _draw_map(axis: Any, drawn: _Map, points: Any, nodes: tuple[Any, Any], edges: tuple[Any, Any]) -> None:
    from matplotlib.collections import LineCollection

    known = {edge: error for edge, error in drawn.edges.items() if error is not None}
    lines = LineCollection([points[list(edge)] for edge in known], linewidths=3.2, zorder=1)
    lines.set_color([edges[1](edges[0](error)) for error in known.values()])
    absent = [points[list(edge)] for edge in drawn.edges if edge not in known]
    axis.add_collection(lines)
    axis.add_collection(LineCollection(absent, linewidths=1.6, colors=_ABSENT, linestyles="dotted", zorder=1))
    measured = [qubit for qubit, error in enumerate(drawn.readout) if error is not None]
    unknown = [qubit for qubit, error in enumerate(drawn.readout) if error is None]
    colours = [nodes[1](nodes[0](drawn.readout[qubit])) for qubit in measured]
    dots = {"s": 150, "zorder": 2, "linewidths": 0.6}
    axis.scatter(*points[measured].T, c=colours or None, edgecolors="#161616", **dots)
    axis.scatter(*points[unknown].T, c="#ffffff", edgecolors=_ABSENT, **dots)
    for qubit, colour in [*zip(measured, colours, strict=True), *((qubit, (1.0, 1.0, 1.0)) for qubit in unknown)]:
        dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 0.55
        axis.text(*points[qubit], str(qubit), fontsize=5.5, ha="center", va="center", color="w" if dark else "k")
    axis.set_aspect("equal")
    if len(points):
        axis.set_xlim(points[:, 0].min() - 0.6, points[:, 0].max() + 0.6)
        axis.set_ylim(points[:, 1].min() - 0.6, points[:, 1].max() + 0.6)
    axis.set_axis_off()
    gaps = " · grey: not measured or not calibrated" if unknown or absent else ""
    axis.set_title("\n".join(textwrap.wrap(drawn.title + gaps, 90)), fontsize=9)


def _draw_changes(axis: Any, changes: Sequence[Change]) -> None:
    labels, widths, colours = [], [], []
    for each in changes:
        ratio = (each.after or 1.0) / (each.before or 1.0)
        is_worse = (ratio > 1) == each.parameter.endswith("error")
        labels.append(f"{each.place} · {each.parameter}")
        widths.append(math.log2(ratio))
        colours.append(_WORSE if is_worse else _BETTER)
    places = range(len(labels))
    axis.barh(places, widths, height=0.7, color=colours)
    axis.set_yticks(places, labels, fontsize=8)
    axis.set_ylim(-0.6, max(len(labels), 3) - 0.4)
    axis.invert_yaxis()
    axis.axvline(0, color="#161616", linewidth=0.8)
    reach = max([0.25, *(abs(width) for width in widths)]) * 1.2
    axis.set_xlim(-reach, reach)
    ticks = [ratio for ratio in _RATIOS if abs(math.log2(ratio)) <= reach]
    axis.set_xticks([math.log2(ratio) for ratio in ticks], [f"× {ratio:g}" for ratio in ticks])
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title("moved most (red: worse, green: better)" if changes else "nothing moved", fontsize=9)
    for place, width in zip(places, widths, strict=True):
        side, gap = ("left", 1) if width > 0 else ("right", -1)
        axis.text(width + gap * 0.01 * reach, place, f"× {2**width:.3g}", va="center", ha=side, fontsize=7)


# --- over time ---------------------------------------------------------------------------------------------------

_SHOWN_IN = {"s": (1e6, "µs"), "Hz": (1e-9, "GHz")}
_MOST_LINES = 8
_DECADE = 10.0  # values that spread over more have a logarithmic axis
_USUAL = ("T1", "T2", "readout_error", "gate_error")
_TIMES = ["measured_at", "last_update_date"]
_FIRST, _LAST = (datetime(year, 1, 1, tzinfo=UTC) for year in (2016, 2200))  # what is dated outside is not dated


def plot_history(histories: Mapping[str, pd.DataFrame], title: str = "") -> bytes:
    """Draw values over time, one panel a parameter: a line each of a few qubits or gates, else median and range.

    Args:
        histories: Panel name to rows of `calibration_history`; what is missing or flagged as not calibrated is a gap.
        title: What stands above.

    Returns:
        A PNG.

    Raises:
        ConfigurationError: The `plot` extra is not installed.
    """
    figure = new_figure(8.0, 2.4 * max(len(histories), 1) + 0.6)
    figure.suptitle("\n".join(textwrap.wrap(title, 100)), fontsize=12)
    axes = figure.subplots(max(len(histories), 1), 1, squeeze=False, sharex=True).ravel()
    for axis, (name, table) in zip(axes, histories.items(), strict=False):
        _draw_history(axis, name, table)
    if not histories:
        axes[0].set_axis_off()
    figure.align_ylabels()
    figure.autofmt_xdate()
    return png_of(figure)


def plot_device_history(archive: Archive, backend: str, since: datetime | None = None) -> bytes:
    """Draw what an archive knows of a device over time: T1, T2, readout errors and those of two-qubit gates.

    Args:
        archive: The opened archive.
        backend: The backend's name.
        since: From calibrations of that date on; all by default.

    Returns:
        A PNG.

    Raises:
        ConfigurationError: The `plot` extra is not installed.
    """
    import pyarrow.compute as pc

    from prefect_ibmq.archive.calibrations import history

    found = {name: history(archive, backend, name, since=since) for name in _USUAL}
    errors = found.pop("gate_error")
    pairs = pc.equal(pc.count_substring(errors["qubits"], "_"), 1)
    found["two-qubit gate_error"] = errors.filter(pc.and_(pairs, pc.not_equal(errors["gate"], _FRACTIONAL)))
    return plot_history({name: rows.to_pandas() for name, rows in found.items()}, f"{backend} over time")


def _draw_history(axis: Any, name: str, rows: Any) -> None:
    units = [unit for unit in rows["unit_si"].dropna().unique() if unit]
    factor, unit = _SHOWN_IN.get(units[0], (1.0, units[0])) if units else (1.0, "")
    uncalibrated = rows["flags"].fillna("").str.split(",").map(lambda flags: "sentinel" in flags).astype(bool)
    value = (rows["value_si"] * factor).mask(uncalibrated)
    measured, made = (rows[name].where((rows[name] > _FIRST) & (rows[name] < _LAST)) for name in _TIMES)
    rows = rows.assign(value=value, made=made, at=measured.fillna(made))
    rows = rows.assign(place=rows["gate"].fillna("qubit") + " " + rows["qubits"].fillna("").str.replace("_", "-"))
    rows = rows.dropna(subset=["at"]).drop_duplicates(["place", "at", "value"])
    if rows["place"].nunique() <= _MOST_LINES:
        # A line breaks off where there is no value, and the time stands below it.
        for place, own in rows.sort_values("at").groupby("place", sort=True):
            axis.plot(own["at"], own["value"], drawstyle="steps-post", marker=".", markersize=4, label=place.strip())
        if len(absent := rows[rows["value"].isna()]):
            below = {"transform": axis.get_xaxis_transform(), "linestyle": "none", "color": _ABSENT}
            axis.plot(absent["at"], [0.03] * len(absent), **below, marker="x", markersize=4, label="no value")
        if len(rows):
            _legend(axis)
    else:
        _draw_range(axis, rows.dropna(subset=["value"]))
    if name.endswith("error") and len(rows) and rows["value"].max() > _DECADE * rows["value"].min() > 0:
        axis.set_yscale("log")
    axis.set_ylabel(f"{name}{f' ({unit})' if unit else ''}", fontsize=8)
    axis.tick_params(labelsize=8, which="both")
    axis.spines[["top", "right"]].set_visible(False)


def _draw_range(axis: Any, rows: Any) -> None:
    """Median and range of all places, at each calibration."""
    grouped = rows.groupby("made")["value"]
    low, middle, high = (grouped.quantile(share) for share in (0.1, 0.5, 0.9))
    axis.fill_between(middle.index, low, high, color="#0f62fe", alpha=0.2, linewidth=0, label="10 % to 90 %")
    axis.plot(middle.index, middle, color="#0f62fe", marker=".", label=f"median of {rows['place'].nunique()}")
    _legend(axis)


def _legend(axis: Any) -> None:
    """Above the panel, where no curve runs."""
    axis.legend(fontsize=7, ncols=4, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.97), borderpad=0)
