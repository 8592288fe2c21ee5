"""Studies from a DICOMweb server, into a folder: QIDO-RS finds them, WADO-RS fetches them."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from dicomweb_client import session_utils
from dicomweb_client.web import DICOMwebClient
from pydicom.dataset import Dataset

from fedmed_edge.errors import FedmedError, InputError
from fedmed_edge.words import counted

log = logging.getLogger(__name__)

AS_STORED = (("application/dicom", "*"),)
"""Whatever the archive has: some fail to make plain copies of compressed instances."""

_PAGE = 200
_TIMEOUT_S = (10, 120)
# Modalities of masks.
_MASKS = ("SEG", "RTSTRUCT")


@dataclass(frozen=True)
class Wanted:
    """Which studies are fetched, and what of them.

    Attributes:
        by: Keyword that `keys` are values of.
        keys: One query each; None: one query of `query` alone.
        query: More attributes that a study must match.
        modalities: Of series that are fetched, beside masks; empty: all.
    """

    by: str
    keys: tuple[str, ...] | None
    query: Mapping[str, str]
    modalities: tuple[str, ...] = ()


def open_server(
    url: str,
    *,
    user: str | None = None,
    password: str | None = None,
    certificate: tuple[Path, Path] | None = None,
    authority: Path | None = None,
    retry: bool = True,
) -> DICOMwebClient:
    """A client of one server.

    Args:
        certificate: The client's own, and its key.
        authority: Certificates that the server's must be signed by; None: those of the system, or that
            REQUESTS_CA_BUNDLE names.
        retry: Ask again up to three times where the server does not answer.

    Raises:
        InputError: The address is none.
    """
    if user is not None:
        session = session_utils.create_session_from_user_pass(user, password or "")
    else:
        session = session_utils.create_session()
    if certificate is not None:
        session.cert = (str(certificate[0]), str(certificate[1]))
    if authority is not None:
        session.verify = str(authority)
    try:
        client = DICOMwebClient(url, session=session, timeout=_TIMEOUT_S)
    except ValueError as error:
        raise InputError(f"{url}: not the address of a DICOMweb server: {error}") from None
    client.set_http_retry_params(retry=retry, max_attempts=3, wait_exponential_multiplier=500)
    return client


def fetch_studies(
    client: DICOMwebClient, wanted: Wanted, into: Path, advance: Callable[[str], None] = lambda step: None
) -> list[tuple[str, str]]:
    """Fetch every series that is wanted, a folder each; one that was fetched whole before is kept.

    Args:
        into: Folder; names in it are numbers of our own.
        advance: Called once a series.

    Returns:
        What could not be fetched, and why.

    Raises:
        InputError: The server cannot be asked, or answers what is no DICOMweb.
    """
    failed = []
    for number, (study, series, count) in enumerate(_found(client, wanted)):
        # Of our own making: a server's UID is no file name.
        folder = into / hashlib.sha256(series.encode()).hexdigest()[:16]
        name = f"series {number + 1}"
        if count and sum(1 for _ in folder.glob("*.dcm")) == count:
            advance(name)
            continue
        try:
            with _asking(client.base_url):
                got = _fetch(client, study, series, folder)
            if count and got < count:
                failed.append((name, f"{got} of {counted(count, 'instance')} could be fetched"))
        except FedmedError as error:
            failed.append((name, str(error)))
        advance(name)
    return failed


def _found(client: DICOMwebClient, wanted: Wanted) -> Iterator[tuple[str, str, int]]:
    seen: set[str] = set()
    for key in wanted.keys if wanted.keys is not None else (None,):
        filters = {**wanted.query, **({wanted.by: key} if key is not None else {})}
        for study in _studies(client, filters):
            # A server may ignore what it does not know: then all that it has would match.
            if key is not None and str(study.get(wanted.by, "")).strip() != key:
                continue
            uid = str(study.StudyInstanceUID)
            if uid in seen:
                continue
            seen.add(uid)
            for one in _asked(client.search_for_series, study_instance_uid=uid):
                modality = str(one.get("Modality", ""))
                if not wanted.modalities or modality in (*wanted.modalities, *_MASKS):
                    count = int(one.get("NumberOfSeriesRelatedInstances") or 0)
                    yield uid, str(one.SeriesInstanceUID), count


def _studies(client: DICOMwebClient, filters: Mapping[str, str]) -> Iterable[Dataset]:
    return _asked(client.search_for_studies, search_filters=dict(filters))


def pages(search: Callable[..., Sequence[Any]], **asked: Any) -> Iterator[Dataset]:
    """All that a query finds, page by page.

    A server may cap a page below what was asked for (PS3.18 8.3.4.4), so the last page is an empty one, or
    one that repeats: some take no offset.
    """
    place, before = 0, None
    while True:
        page = search(limit=_PAGE, offset=place, **asked)
        if not page or page == before:
            return
        yield from map(Dataset.from_json, page)
        place, before = place + len(page), page


def _asked(search: Callable[..., Sequence[Any]], **asked: Any) -> Iterator[Dataset]:
    with _asking(""):
        yield from pages(search, **asked)


def _fetch(client: DICOMwebClient, study: str, series: str, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    got = 0
    for got, dataset in enumerate(client.iter_series(study, series, media_types=AS_STORED), start=1):
        part = folder / f".{got:06}.part"
        dataset.save_as(part)
        part.rename(folder / f"{got:06}.dcm")
    return got


@contextmanager
def _asking(url: str) -> Iterator[None]:
    """One error of ours for what a server or the way to it can do; no text of the server's is shown."""
    try:
        yield
    except (FedmedError, MemoryError, OSError) as error:
        if not isinstance(error, requests.RequestException):
            raise
        response = error.response
        status = f" (HTTP {response.status_code})" if response is not None else ""
        raise InputError(f"dicomweb: the server cannot be asked: {type(error).__name__}{status}") from None
    except Exception as error:
        raise InputError(f"dicomweb: the server's answer is not understood: {type(error).__name__}") from None
