"""Who may import whom: a face, three wings that do not know each other, and the ground floor that all stand on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import prefect_ibmq

HOME = Path(prefect_ibmq.__file__).parent
REPOSITORY = HOME.parent
WINGS = ("wire", "archive", "embedded")
GROUND_FLOOR = {"errors", "failures", "ibm", "fingerprint", "snapshot_ids", "_version"}
MODULES = sorted(path for path in HOME.rglob("*.py") if "flows" not in path.relative_to(HOME).parts)
IBM_SESSION = ("qiskit_ibm_runtime.api", "qiskit_ibm_runtime.qiskit_runtime_service", "ibm_cloud_sdk_core", "requests")


def _name(path: Path) -> str:
    return ".".join(path.relative_to(HOME).with_suffix("").parts).removesuffix(".__init__").replace("__init__", "")


@cache
def _imports(path: Path) -> tuple[str, ...]:
    return tuple(_found(path))


def _found(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, in functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (each.value for each in node.args if isinstance(each, ast.Constant) and "." in str(each.value))


def _is_or_is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _ours(path: Path) -> set[str]:
    """What a file imports of this package: `errors`, `wire.client`, `wire.client.RuntimeClient`, …"""
    names = {name for name in _imports(path) if _is_or_is_below(name, "prefect_ibmq")}
    return {name.removeprefix("prefect_ibmq").removeprefix(".") for name in names} - {""}


def _rooms(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in _ours(path)}


def _ids(path: Path) -> str:
    return _name(path) or "__init__"


def _below(wing: str) -> list[Path]:
    return [path for path in MODULES if path.relative_to(HOME).parts[0] == wing]


def test_the_house_is_looked_at() -> None:
    assert {_ids(path) for path in MODULES} >= {"__init__", "provider", "wire.client", "archive.bits", "embedded.app"}
    assert "errors" in _rooms(HOME / "wire" / "client.py")


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_stands_on_the_ground_floor_alone(wing: str) -> None:
    found = {_ids(path): _rooms(path) - GROUND_FLOOR - {wing} for path in _below(wing)}
    assert {name: rooms for name, rooms in found.items() if rooms} == {}


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_knows_nothing_of_prefect(wing: str) -> None:
    found = {_ids(path): [name for name in _imports(path) if _is_or_is_below(name, "prefect")] for path in _below(wing)}
    assert {name: told for name, told in found.items() if told} == {}


@pytest.mark.parametrize("name", sorted(GROUND_FLOOR))
def test_the_ground_floor_imports_nothing_above_it(name: str) -> None:
    path = HOME / f"{name}.py"
    assert _rooms(path) <= GROUND_FLOOR
    assert [each for each in _imports(path) if _is_or_is_below(each, "prefect")] == []


def test_the_archive_knows_nothing_of_http() -> None:
    found = {
        _ids(path): [name for name in _imports(path) if _is_or_is_below(name, "httpx")] for path in _below("archive")
    }
    assert {name: told for name, told in found.items() if told} == {}


def test_only_ibm_py_opens_the_door_to_ibms_client() -> None:
    importing = {
        _ids(path): {name for name in _imports(path) if _is_or_is_below(name, "qiskit_ibm_runtime")} for path in MODULES
    }
    importing = {name: told for name, told in importing.items() if told}
    assert "ibm" in importing
    # The simulating process loads the package early, by its name alone, so that its first job need not wait for it.
    assert importing.pop("embedded.simulator", set()) <= {"qiskit_ibm_runtime"}
    assert set(importing) == {"ibm"}


@pytest.mark.parametrize("path", MODULES, ids=_ids)
def test_no_module_uses_ibms_http_session(path: Path) -> None:
    names = list(_imports(path))
    assert [name for name in names for session in IBM_SESSION if _is_or_is_below(name, session)] == []
    assert not any(name.endswith(("QiskitRuntimeService", "RuntimeClient")) for name in names if "qiskit_ibm" in name)


def _everything() -> list[Path]:
    flows = sorted((REPOSITORY / "flows").glob("*.py"))
    assert flows
    return [*MODULES, *flows]


@pytest.mark.parametrize("path", _everything(), ids=lambda path: path.stem)
def test_nothing_comes_from_prefects_private_modules(path: Path) -> None:
    private = [
        name
        for name in _imports(path)
        if _is_or_is_below(name, "prefect") and any(part.startswith("_") for part in name.split("."))
    ]
    assert private == []


def test_the_face_does_not_reach_into_the_embedded_service() -> None:
    inside = {
        _ids(path): {name.split(".")[1] for name in _ours(path) if name.startswith("embedded.")}
        for path in MODULES
        if path.parent == HOME
    }
    # The fixtures for users' tests show what goes on in it: that is what they are for.
    inside.pop("testing")
    # To mount it, to serve it, to let it misbehave, and to say where it listens.
    doors = {"app", "options", "server", "LocalService", "ServiceOptions", "faults", "clock"}
    assert {name: parts - doors for name, parts in inside.items() if parts - doors} == {}


@pytest.mark.parametrize("wing", WINGS)
def test_inside_a_wing_the_arrows_run_one_way(wing: str) -> None:
    modules = {_ids(path): path for path in _below(wing)}
    arrows = {
        name: {other for other in modules if other != name and other != wing and _loads(path, other)}
        for name, path in modules.items()
        if name != wing
    }
    while arrows:
        free = {name for name, others in arrows.items() if not others & arrows.keys()}
        assert free, f"a circle among {sorted(arrows)}"
        arrows = {name: others for name, others in arrows.items() if name not in free}


def _loads(path: Path, module: str) -> bool:
    return f"prefect_ibmq.{module}" in _loaded(path)


@cache
def _loaded(path: Path) -> frozenset[str]:
    """What a file imports of this package, what is only for type checkers apart."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
    return frozenset(names | {str(node.module) for node in nodes})


def test_what_others_import_stands_in_a_modules_all() -> None:
    listed = {f"prefect_ibmq.{_name(path)}": _listed(path) for path in MODULES}
    unlisted = {
        f"{node.module}.{alias.name}"
        for path in _everything()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and listed.get(str(node.module))
        for alias in node.names
        if alias.name not in listed[str(node.module)] and f"{node.module}.{alias.name}" not in listed
    }
    assert unlisted == set()


def _listed(path: Path) -> set[str]:
    """The names in a module's `__all__`; none of a module without one."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()
