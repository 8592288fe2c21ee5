"""The long series: `python tests/faults/run.py`. Other runs of pytest take what is marked `short` of it."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from kits import load

BESIDE = Path(__file__).parent
WIDE = "lift_dim = 1024"
"""A lift that makes a contribution of several parts."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for one in items:
        if BESIDE in one.path.parents:
            one.add_marker(pytest.mark.timeout(900))  # processes start slowly where the machine is busy
            one.add_marker(pytest.mark.slow)
    if os.environ.get("FEDMED_TEST_FAULTS"):
        return
    left = [one for one in items if BESIDE in one.path.parents and not one.get_closest_marker("short")]
    config.hook.pytest_deselected(items=left)
    items[:] = [one for one in items if one not in set(left)]


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    return load("end_to_end/federation.py")


@pytest.fixture(scope="session")
def net() -> ModuleType:
    pytest.importorskip("nvflare")
    return load("end_to_end/network.py")


@pytest.fixture(scope="session")
def link() -> ModuleType:
    return load("faults/link.py")


@pytest.fixture(scope="session")
def stops() -> ModuleType:
    return load("faults/stops.py")


@pytest.fixture(scope="session")
def world(kit: ModuleType, net: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server, the hospitals a, b and c with kits, and what each would hand over: files of several parts."""
    made = kit.Federation(tmp_path_factory.mktemp("world"))
    made.recipe.write_text(made.recipe.read_text().replace("lift_dim = 32", WIDE))
    for seed, name in enumerate("abc"):
        made.enrol(name, seed, gain=1 - 0.1 * seed)
    made.learn("a", "b", "c")
    for name in "abc":
        made.contribute(name)
    net.Network(made).enrol("a", "b", "c")
    return made


@pytest.fixture
def network(world: Any, net: ModuleType, tmp_path: Path) -> Iterator[Any]:
    """The same in a folder of this test's own, with a port of its own; nothing runs yet."""
    copied = world.copy(tmp_path / "world")
    with net.Network(copied) as made:
        for name in "abc":
            made.set(copied.root / name, server=f"localhost:{made.port}")
        yield made


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Any:
    """Note a figure for the table: `figure("name", value)`."""

    def note(name: str, value: object) -> None:
        request.node.user_properties.append((name, value))

    return note
