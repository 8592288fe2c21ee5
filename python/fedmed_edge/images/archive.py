"""An archive to collect from: paths on this machine, and DICOMweb servers, which are fetched from first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedmed_edge.errors import InputError
from fedmed_edge.images.collect import Plan
from fedmed_edge.images.spreadsheet import read_labels

_RECEIVED: Final = "received"


@dataclass(frozen=True)
class Archive:
    """What was named, as paths on this machine; of a server, what could not be fetched, and why."""

    paths: tuple[Path, ...]
    failed: tuple[tuple[str, str], ...] = ()


def open_archive(
    scan: Sequence[str],
    plan: Plan,
    query: Mapping[str, str],
    user: str | None,
    password_file: Path | None,
    advance: Callable[[str], None] = lambda step: None,
) -> Archive:
    """Bring what lies on DICOMweb servers into the dataset folder, a study for each key of the table.

    Args:
        scan: Paths, and addresses that begin with `https://` or `http://`.
        query: What studies of a server must match, by keyword.

    Raises:
        InputError: A path is not there or in the dataset folder, a server cannot be asked, or everything of
            one would match.
    """
    servers = [name for name in scan if name.startswith(("https://", "http://"))]
    paths = [Path(name) for name in scan if name not in servers]
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        _refuse_own(path, plan.out)
    if query and not servers:
        raise InputError("dataset: `--query` is of a DICOMweb server, expected its address to be scanned")
    failed: list[tuple[str, str]] = []
    for number, url in enumerate(servers):
        if plan.labels is None and not query:
            raise InputError(
                f"{url}: every study of the server would match, expected --labels or --query",
                hint="for example --query ModalitiesInStudy=CT --query StudyDate=20240101-20241231",
            )
        # Loads a web client: only where there is a server.
        from fedmed_edge.images.dicomweb import Wanted, fetch_studies, open_server

        rows = read_labels(plan.labels, by=plan.by, label=plan.label) if plan.labels else None
        keys = None if rows is None else tuple(row.key for row in rows)
        password = password_file.read_text(encoding="utf-8").strip() if password_file else None
        wanted = Wanted(plan.by, keys, query, plan.recipe.modality if plan.recipe else ())
        into = plan.out / _RECEIVED / str(number)
        failed += fetch_studies(open_server(url, user=user, password=password), wanted, into, advance)
        paths.append(into)
    return Archive(tuple(path for path in paths if path.exists()), tuple(failed))


def _refuse_own(path: Path, out: Path) -> None:
    """What was fetched before may be taken up again; the images made of it are no archive."""
    whole, made = path.resolve(), out.resolve()
    if whole.is_relative_to(made) and not whole.is_relative_to(made / _RECEIVED):
        raise InputError(
            f"{path}: is in the dataset folder {out} that is made, expected images that lie elsewhere",
            hint="name another folder with --out",
        )
