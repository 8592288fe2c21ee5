"""Contributions by file, or out of the store of another server."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fedmed_edge.commands.folders import read_server
from fedmed_edge.config import FILE_NAME
from fedmed_edge.store.encryption import erase_file


@contextmanager
def contribution_files(paths: Iterable[Path]) -> Iterator[Iterator[tuple[str, Path]]]:
    """Names and files of contributions; a server's folder stands for those that are current in its store.

    A file out of a store is there until the next one is asked for.
    """
    with TemporaryDirectory(prefix="fedmed-region-") as folder:
        yield _files(paths, Path(folder) / "contribution")


def _files(paths: Iterable[Path], copy: Path) -> Iterator[tuple[str, Path]]:
    for path in paths:
        if not (path / FILE_NAME).is_file():
            yield str(path), path
            continue
        _, store = read_server(path)
        for entry in store.contribution_entries():
            if entry.current:
                copy.write_bytes(store.contribution_content(entry.id))
                yield f"{path}: contribution {entry.id[:12]} of {entry.site}", copy
                erase_file(copy, store.cipher)
