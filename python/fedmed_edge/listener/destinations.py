"""Where results go: a DICOM node by C-STORE, a DICOMweb server by STOW-RS, or a folder."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from fedmed_edge.atomic import write_atomic
from fedmed_edge.errors import InputError, Undelivered
from fedmed_edge.images.series import safe_name
from fedmed_edge.listener.incoming import read_header
from fedmed_edge.listening import Listen, dicom_address

if TYPE_CHECKING:
    import requests
    from dicomweb_client.web import DICOMwebClient
    from pynetdicom.association import Association

log = logging.getLogger(__name__)

_PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_NO_SUCH_CLASS = 0x0122
# stored, though elements were coerced or dropped: PS3.4 B.2.3
_STORED = {0x0000, 0xB000, 0xB006, 0xB007}
_CONNECT_S, _ANSWER_S = 10, 60


def silence_libraries() -> None:
    """Libraries log and warn with the values that they stumble over; a log holds no value of DICOM."""
    logging.captureWarnings(True)
    for name in ("py.warnings", "pydicom", "pynetdicom", "dicomweb_client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Sent:
    """What became of one object.

    Attributes:
        stored: It arrived, or its fallback did.
        note: Why it did not, or what went in its place.
        final: Its class is not taken there, and trying again changes nothing.
    """

    stored: bool
    note: str | None = None
    final: bool = False


class Destination(Protocol):
    """Something that objects can be sent to."""

    def store(self, objects: Sequence[tuple[Path, Path | None]]) -> list[Sent]:
        """Send objects, each with what goes instead where its class is not taken.

        Raises:
            Undelivered: The destination cannot be reached, and nothing was sent.
        """


def destination_of(text: str, settings: Listen) -> Destination:
    """What an entry of `destination` means."""
    address = dicom_address(text)
    if address is not None:
        return DicomNode(*address, tls=text.startswith("dicoms://"), settings=settings)
    if text.startswith(("http://", "https://")):
        return DicomwebServer(text, settings)
    return Folder(Path(text))


@dataclass(frozen=True)
class Folder:
    """A folder that something else takes files from."""

    folder: Path

    def store(self, objects: Sequence[tuple[Path, Path | None]]) -> list[Sent]:
        """Copy each to `STUDY/INSTANCE.dcm`."""
        sent = []
        for path, _ in objects:
            try:
                header = read_header(path)
                study = self.folder / safe_name(str(header.StudyInstanceUID))
                study.mkdir(parents=True, exist_ok=True)
                write_atomic(study / f"{safe_name(str(header.SOPInstanceUID))}.dcm", path.read_bytes())
                sent.append(Sent(True))
            except (OSError, InputError) as error:
                sent.append(Sent(False, str(error)))
            except Exception as error:  # an object that cannot be read holds up no other
                sent.append(Sent(False, f"{path.name}: {type(error).__name__}"))
        return sent


class DicomNode:
    """A PACS, by C-STORE: its own transfer syntax first, then the plain ones, which are made here."""

    def __init__(self, aet: str, host: str, port: int, *, tls: bool, settings: Listen) -> None:
        self._aet, self._address, self._tls, self._settings = aet, (host, port), tls, settings

    def store(self, objects: Sequence[tuple[Path, Path | None]]) -> list[Sent]:
        """Send all in one association; a class that it did not accept goes as its fallback."""
        from pynetdicom import AE, evt
        from pynetdicom.presentation import build_context

        from fedmed_edge.listener.sockets import client_context, make_prompt

        kinds = {_kind(path) for pair in objects for path in pair if path is not None}
        wanted = dict.fromkeys((sop_class, one) for sop_class, own in sorted(kinds) for one in (own, *_PLAIN))
        entity = AE(ae_title=self._settings.aet)
        entity.connection_timeout = entity.acse_timeout = _CONNECT_S
        entity.dimse_timeout = entity.network_timeout = _ANSWER_S
        association = entity.associate(
            *self._address,
            contexts=[build_context(sop_class, syntax) for sop_class, syntax in wanted][:128],
            ae_title=self._aet,
            tls_args=(client_context(self._settings.tls), self._address[0]) if self._tls else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, make_prompt)],
        )
        if not association.is_established:
            how = "refused the association" if association.is_rejected else "does not answer"
            raise Undelivered(f"{self._aet}@{self._address[0]}:{self._address[1]}: {how}")
        accepted = {
            (str(one.abstract_syntax), str(one.transfer_syntax[0])) for one in association.accepted_contexts
        }
        try:
            return [self._store(association, accepted, *pair) for pair in objects]
        finally:
            association.release()

    def _store(
        self, association: "Association", accepted: set[tuple[str, str]], path: Path, other: Path | None
    ) -> Sent:
        status = _send(association, accepted, path)
        if status in _STORED:
            return Sent(True)
        if status == _NO_SUCH_CLASS and other is not None:
            instead = _send(association, accepted, other)
            if instead in _STORED:
                return Sent(True, f"its class is not taken there: {other.name} went instead of {path.name}")
        if status == _NO_SUCH_CLASS:
            return Sent(False, f"{path.name}: its class is not taken there", final=True)
        return Sent(False, f"{path.name}: " + ("no answer" if status is None else f"status 0x{status:04X}"))


def check_object(path: Path) -> None:
    """Refuse what cannot be sent.

    Raises:
        InputError: The file is missing or no DICOM object.
    """
    try:
        _kind(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {(error.strerror or '').lower()}") from None
    except Exception:  # pydicom raises many kinds over what is none
        raise InputError(f"{path}: not a DICOM file with its class and transfer syntax") from None


def _kind(path: Path) -> tuple[str, str]:
    meta = pydicom.filereader.read_file_meta_info(path)
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)


def _send(association: "Association", accepted: set[tuple[str, str]], path: Path) -> int | None:
    """Status of the C-STORE; None where no answer came."""
    sop_class, own = _kind(path)
    syntaxes = [one for one in (own, *_PLAIN) if (sop_class, one) in accepted]
    if not syntaxes:
        return _NO_SUCH_CLASS
    if not association.is_established:
        return None
    dataset = pydicom.dcmread(path)
    if syntaxes[0] != own and own not in _PLAIN:
        dataset.decompress()
    answer = association.send_c_store(dataset)
    return int(answer.Status) if "Status" in answer else None


class DicomwebServer:
    """A DICOMweb server, by STOW-RS."""

    def __init__(self, url: str, settings: Listen) -> None:
        self._url, self._settings = url, settings

    def store(self, objects: Sequence[tuple[Path, Path | None]]) -> list[Sent]:
        """Send each by itself; a class that is refused goes as its fallback."""
        from fedmed_edge.listener.dicomweb import open_client

        client = open_client(self._url, self._settings)
        return [self._store(client, *pair) for pair in objects]

    def _store(self, client: "DICOMwebClient", path: Path, other: Path | None) -> Sent:
        reason = self._post(client, path)
        if reason is None:
            return Sent(True)
        if reason == _NO_SUCH_CLASS and other is not None and self._post(client, other) is None:
            return Sent(True, f"its class is not taken there: {other.name} went instead of {path.name}")
        return Sent(False, f"{path.name}: refused with 0x{reason:04X}", final=reason == _NO_SUCH_CLASS)

    def _post(self, client: "DICOMwebClient", path: Path) -> int | None:
        """None where it was stored, else the reason (PS3.18 table 10.5.3-2)."""
        import requests

        try:
            answer = client.store_instances([pydicom.dcmread(path)])
        except requests.HTTPError as error:
            code = 0x0110 if error.response is None else error.response.status_code
            return _failure(error.response) or (_NO_SUCH_CLASS if code == 415 else code)
        except requests.RequestException as error:
            raise Undelivered(f"{self._url}: {type(error).__name__}") from None
        return _reason(answer)


def _failure(response: "requests.Response | None") -> int | None:
    """The reason within a refusal, where the server tells one."""
    if response is None:
        return None
    try:
        return _reason(Dataset.from_json(response.json()))
    except Exception:  # what a server says beside its status may be anything
        return None


def _reason(answer: Dataset) -> int | None:
    failed = answer.get("FailedSOPSequence") or []
    return int(failed[0].get("FailureReason", 0x0110)) if failed else None
