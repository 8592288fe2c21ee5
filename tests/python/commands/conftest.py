import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from kits import load

from fedmed_edge.federation.inbox import Inbox
from fedmed_edge.federation.messages import Offered
from fedmed_edge.signing import signature_path


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """The tiny hospitals of the end-to-end tests, and the two programs."""
    return load("end_to_end/federation.py")


@pytest.fixture(scope="session")
def world(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A federation of a and b with a rebuilt, exported model; what c contributes is not imported.

    Tests do not change it: `copied` is for that.
    """
    made = kit.Federation(tmp_path_factory.mktemp("world"))
    for seed, name in enumerate("abc"):
        made.enrol(name, seed, gain=1 - 0.1 * seed)
    made.learn("a", "b")
    made.join("a", "b")
    made.admin("rebuild")
    made.export()
    backbone = made.root / "a.backbone"
    made.site("a", "train", "--from-scratch", "--epochs", 0.1, "--device", "cpu", "--out", backbone)
    made.contribute("c")
    return made


@pytest.fixture
def copied(world: Any, tmp_path: Path) -> Any:
    """The same federation in a folder of this test's own."""
    return world.copy(tmp_path / "world")


@pytest.fixture
def listing() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder with its bytes; SQLite's own side files apart."""

    def files(folder: Path) -> dict[str, bytes]:
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(p.relative_to(folder)): p.read_bytes() for p in found if ".sqlite-" not in p.name}

    return files


@pytest.fixture
def arrive() -> Callable[..., str]:
    """Brings an exported model into a site's inbox as the server's, with what is told of it; its digest."""
    return _arrive


def _arrive(site: Path, file: Path, made: float = 0.0, **told: Any) -> str:
    """A model comes from the server; its digest."""
    content, inbox = file.read_bytes(), Inbox(site / "inbox")
    offered = Offered(
        kind="model",
        digest=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        signature=signature_path(file).read_text(),
        made=made,
        **{"task": "tiny", **told},
    )
    inbox.folder.mkdir(exist_ok=True)
    coming = inbox.assembly(offered)
    coming.begin(len(content))
    coming.put(0, content)
    inbox.take(offered)
    return offered.digest
