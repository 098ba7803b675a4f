"""Calibrations as tables for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.text import Text

from prefect_ibmq.terminal import listing

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

__all__ = ["history_table", "holdings_table", "qubits_table"]

_ERROR_OF_A_GATE = "gate_error"
_OF_DATES = {"stale", "after_snapshot"}
_MOST_TOLD = 4


def _shown(moment: Any) -> str:
    """A moment of a table, local with its zone; nothing for none."""
    if moment is None or moment != moment:
        return ""
    try:
        return datetime.fromtimestamp(moment.timestamp()).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    except (ValueError, OverflowError):  # at an end of the years 1 to 9999, as dates are that stand for none
        return f"{moment.isoformat(sep=' ', timespec='seconds').removesuffix('+00:00')} UTC"


def holdings_table(rows: Sequence[dict[str, Any]]) -> Table:
    """What an archive holds, a row for each backend; times local with their zone."""
    table = listing()
    table.add_column("backend", no_wrap=True)
    table.add_column("calibrations", justify="right", no_wrap=True)
    for title in ("oldest", "newest", "last seen"):
        table.add_column(title, no_wrap=True)
    for row in rows:
        moments = (row["oldest"], row["newest"], row["last_seen"])
        table.add_row(Text(row["backend"]), str(row["calibrations"]), *map(_shown, moments))
    return table


def history_table(history: pd.DataFrame) -> Table:
    """One parameter over time: of one place its values, of several their spread in each calibration."""
    table = listing()
    table.add_column("calibrated", no_wrap=True)
    if history.groupby(["gate", "qubits"], dropna=False).ngroups == 1:
        _add_values(table, history)
    else:
        _add_spreads(table, history)
    return table


def _add_values(table: Table, history: pd.DataFrame) -> None:
    table.add_column("value", justify="right", no_wrap=True)
    for title in ("unit", "measured", "flags"):
        table.add_column(title, no_wrap=True)
    for row in history.to_dict("records"):
        table.add_row(
            _shown(row["last_update_date"]),
            _number(row["value"]),
            Text(_text(row["unit"])),
            _shown(row["measured_at"]),
            Text(_text(row["flags"]), "yellow"),
        )


def _add_spreads(table: Table, history: pd.DataFrame) -> None:
    for title in ("places", "median", "least", "most"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("flagged", justify="right", no_wrap=True)
    for _, rows in history.groupby(["last_update_date", "snapshot"], sort=True):
        # Units may differ from place to place; the median is of what has the first one's.
        unit = _text(rows["unit"].iloc[0])
        values = rows.loc[rows["unit"].map(_text) == unit, "value"]
        table.add_row(
            _shown(rows["last_update_date"].iloc[0]),
            str(len(rows)),
            *(_number(each) for each in (values.median(), values.min(), values.max())),
            Text(unit),
            str(int((rows["flags"].fillna("") != "").sum()) or ""),
        )


def qubits_table(parameters: pd.DataFrame) -> Table:
    """One calibration, a row for each qubit: coherence, readout, gate errors, and what is flagged of it."""
    table = listing()
    titles = ("qubit", "T1", "T2", "readout error", "1-qubit error", "best pair", "worst pair")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("flags", overflow="fold")
    places = parameters[(parameters["kind"] != "general") & parameters["qubits"].notna()]
    for qubit, rows in places.groupby(places["qubits"].map(_first), sort=True):
        table.add_row(str(qubit), *_cells(rows))
    return table


def _first(qubits: str) -> int:
    return int(qubits.partition("_")[0])


def _cells(rows: pd.DataFrame) -> list[Any]:
    own, gates = rows[rows["kind"] == "qubit"], rows[rows["parameter"] == _ERROR_OF_A_GATE]
    alone = gates[~gates["qubits"].str.contains("_")]
    pulsed = alone[alone["gate"].isin(("sx", "x"))]
    pairs = gates[gates["qubits"].str.contains("_") & ~gates["flags"].fillna("").str.contains("sentinel")]
    return [
        *(Text(_measured(own, name)) for name in ("T1", "T2", "readout_error")),
        _number(pulsed["value"].max()),
        _pair(pairs, "idxmin"),
        _pair(pairs, "idxmax"),
        Text(_flagged(rows), "yellow"),
    ]


def _measured(own: pd.DataFrame, name: str) -> str:
    found = own[own["parameter"] == name]
    if found.empty:
        return ""
    return f"{_number(found['value'].iloc[0])} {_text(found['unit'].iloc[0])}".strip()


def _pair(pairs: pd.DataFrame, which: str) -> Text | str:
    values = pairs["value"].dropna()
    if values.empty:
        return ""
    row = pairs.loc[getattr(values, which)()]
    return Text(f"{row['gate']} {row['qubits']}: {_number(row['value'])}")


def _flagged(rows: pd.DataFrame) -> str:
    """What is flagged: a qubit's values by name, gates' together, and how many are merely old or dated oddly.

    A gate that a device does not calibrate is a sentinel on every pair, which would drown what matters.
    """
    told: list[str] = []
    gates: dict[tuple[str, str], list[str]] = {}
    dates: Counter[str] = Counter()
    for row in rows[rows["flags"].fillna("") != ""].to_dict("records"):
        flags = set(str(row["flags"]).split(","))
        dates.update(flags & _OF_DATES)
        doubts = f"{row['parameter']}: {', '.join(sorted(flags - _OF_DATES))}"
        if not flags - _OF_DATES:
            continue
        if row["kind"] == "gate":
            gates.setdefault((row["gate"], doubts), []).append(row["qubits"])
        else:
            told.append(doubts)
    told += [f"{gate} {' '.join(pairs)} {doubts}" for (gate, doubts), pairs in gates.items()]
    shown = told[:_MOST_TOLD] + ([f"… {len(told)} in all"] if len(told) > _MOST_TOLD else [])
    return "; ".join([*shown, *(f"{count} {flag}" for flag, count in sorted(dates.items()))])


def _text(value: Any) -> str:
    """A text of a table; an empty one for none, which pandas tells as NaN."""
    return value if isinstance(value, str) else ""


def _number(value: Any) -> str:
    return "" if value is None or value != value else f"{value:.4g}"
