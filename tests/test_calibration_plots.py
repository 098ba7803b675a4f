"""Pictures of calibrations, and where qubits are drawn."""

from __future__ import annotations

import copy
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from prefect_ibmq import calibration_history, compare_calibrations, ibm
from prefect_ibmq.archive.calibrations import store_payloads
from prefect_ibmq.archive.datasets import open_archive
from prefect_ibmq.calibration_plots import plot_comparison, plot_device, plot_device_history, plot_history
from prefect_ibmq.device_layout import couplings_of, positions_of
from prefect_ibmq.embedded.drift import drifted

NOON = datetime(2026, 4, 15, 12, tzinfo=UTC)


def pixels(png: bytes) -> Any:
    """The picture as an array of `(height, width, 4)`."""
    import io

    from matplotlib.image import imread

    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert max(struct.unpack(">II", png[16:24])) < 4000
    return imread(io.BytesIO(png))


@pytest.mark.parametrize("device", ["fake_kingston", "fake_montreal", "fake_manila", "fake_armonk", "fake_nighthawk"])
def test_a_device_is_drawn_with_its_configuration_and_without(device: str) -> None:
    payload, configuration = ibm.device_properties(device), ibm.device_configuration(device)
    for known in (configuration, None):
        drawn = pixels(plot_device(payload, known))
        assert len(np.unique(drawn.reshape(-1, 4), axis=0)) > 20  # not an empty sheet


def test_what_is_not_calibrated_is_grey_and_no_colour() -> None:
    good = ibm.device_properties("fake_manila")
    bad = copy.deepcopy(good)
    for gate in bad["gates"]:
        for parameter in gate["parameters"]:
            if parameter["name"] == "gate_error" and len(gate["qubits"]) == 2:
                parameter["value"] = 1
    grey = np.array([0xB0, 0xB0, 0xB0]) / 255
    amounts = [
        int(np.isclose(pixels(plot_device(each))[..., :3], grey, atol=1e-3).all(axis=-1).sum()) for each in (good, bad)
    ]
    assert amounts[1] > amounts[0] + 20


def test_two_calibrations_are_drawn_beside_each_other() -> None:
    base = ibm.device_properties("fake_montreal")
    before = drifted(base, seed="t", number=0, made=NOON)
    after = drifted(base, seed="t", number=9, made=NOON + timedelta(days=9))
    wide = pixels(plot_comparison(compare_calibrations(before, after), before, after))
    one = pixels(plot_device(before))
    assert wide.shape[1] > 1.5 * one.shape[1]
    still = plot_comparison(compare_calibrations(before, before), before, before)
    assert pixels(still).shape[0] > 100


@pytest.mark.parametrize("device", ["fake_kingston", "fake_brisbane", "fake_nighthawk", "fake_montreal", "fake_manila"])
def test_coupled_qubits_lie_side_by_side_and_no_two_on_one_place(device: str) -> None:
    payload, configuration = ibm.device_properties(device), ibm.device_configuration(device)
    edges = couplings_of(payload, configuration)
    points = positions_of(configuration["n_qubits"], edges)
    lengths = np.array([np.linalg.norm(points[a] - points[b]) for a, b in edges])
    assert lengths.max() < 2.0 * np.median(lengths)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 9 * np.eye(len(points))
    assert apart.min() > 0.4 * np.median(lengths)
    assert (positions_of(configuration["n_qubits"], edges) == points).all()


def test_coordinates_that_tear_couplings_apart_are_not_used() -> None:
    edges = [(0, 1), (1, 2)]
    given = positions_of(3, edges, [[0, 0], [1, 0], [2, 0]])
    assert given[:, 0].tolist() == [0.0, 1.0, 2.0]
    torn = positions_of(3, edges, [[0, 0], [50, 0], [2, 0]])
    assert float(np.linalg.norm(torn[0] - torn[1])) < 2.0


def test_qubits_without_couplings_have_places_of_their_own() -> None:
    points = positions_of(6, [(0, 1), (2, 3)])
    assert len({tuple(np.round(point, 3)) for point in points.tolist()}) == 6
    assert np.isfinite(points).all()
    assert positions_of(0, []).shape == (0, 2)


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An archive with a month of a device of 27 qubits."""
    archive = open_archive(tmp_path_factory.mktemp("month"))
    base = ibm.device_properties("fake_montreal")
    days = [drifted(base, seed="t", number=day, made=NOON + timedelta(days=day)) for day in range(30)]
    days[7]["qubits"][0] = days[7]["qubits"][0][2:]
    store_payloads(
        archive, [("fake_montreal", payload, NOON + timedelta(days=day)) for day, payload in enumerate(days)]
    )
    return archive


def test_the_history_of_a_device_is_drawn_from_an_archive(month: Any) -> None:
    whole = pixels(plot_device_history(month, "fake_montreal"))
    assert whole.shape[0] > 900  # four panels
    pixels(plot_device_history(month, "fake_montreal", NOON + timedelta(days=25)))
    pixels(plot_device_history(month, "a device that nobody knows"))


def test_few_qubits_have_a_line_each(month: Any) -> None:
    one = calibration_history(month, "fake_montreal", "T1", 3)
    assert len(np.unique(pixels(plot_history({"T1": one}, "qubit 3")).reshape(-1, 4), axis=0)) > 5
    pixels(plot_history({}, "nothing"))


def test_a_line_breaks_off_where_a_gate_is_not_calibrated(month: Any) -> None:
    whole = calibration_history(month, "fake_montreal", "gate_error", (1, 2), "cx")
    broken = whole.copy()
    middle = broken.index[len(broken) // 3 : 2 * len(broken) // 3]
    broken.loc[middle, ["value", "value_si", "flags"]] = (1.0, 1.0, "sentinel")

    def drawn(rows: Any, colour: tuple[int, int, int]) -> int:
        """How many columns of the picture have the colour."""
        picture = (pixels(plot_history({"gate_error": rows}))[..., :3] * 255).round().astype(int)
        return int((picture == colour).all(axis=2).any(axis=0).sum())

    line, absent = (0x1F, 0x77, 0xB4), (0xB0, 0xB0, 0xB0)
    assert drawn(broken, line) < 0.8 * drawn(whole, line)
    assert drawn(broken, absent) > drawn(whole, absent)
