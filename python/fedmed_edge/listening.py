"""The table `[listen]` of `fedmed.toml`: the DICOM node of one hospital."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fedmed_edge.recipe import Frozen
from fedmed_edge.validation import spelt

Seconds = Annotated[float, Field(gt=0, le=86400)]
Port = Annotated[int, Field(ge=0, le=65535)]
LabelKey = Literal["AccessionNumber", "StudyInstanceUID", "PatientID"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_AET = r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?"
_DESTINATION = re.compile(rf"(?:dicoms?://)?(?P<aet>{_AET})@(?P<host>[\w.:\[\]-]+):(?P<port>\d{{1,5}})")


class Peer(Frozen):
    """One entry of `allow`: an AE title, or `*`, at an address, a network or `*`.

    Example:
        >>> Peer.parse("CT1@10.1.0.0/16").admits("CT1", "10.1.2.3")
        True
        >>> Peer.parse("*@127.0.0.1").admits("CT1", "10.1.2.3")
        False
    """

    aet: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None

    @classmethod
    def parse(cls, text: str) -> "Peer":
        """Read `AET@ADDRESS`.

        Raises:
            ValueError: It is none.
        """
        aet, _, host = text.rpartition("@")
        if aet != "*" and not re.fullmatch(_AET, aet):
            raise ValueError(f"allow: has {text!r}, expected AET@ADDRESS, such as CT1@10.1.2.3")
        try:
            return cls(aet=aet, network=None if host == "*" else ipaddress.ip_network(host))
        except ValueError as error:
            raise ValueError(f"allow: has {text!r}: {error}") from None

    def admits(self, aet: str | None, address: str) -> bool:
        """Whether a peer may come; before it has told its AE title, that is None."""
        given = ipaddress.ip_address(address.partition("%")[0])
        given = getattr(given, "ipv4_mapped", None) or given
        if self.network is not None and (given.version != self.network.version or given not in self.network):
            return False
        return aet is None or self.aet in ("*", aet.strip())


class Tls(Frozen):
    """Certificates in PEM; without `certificate` there is no TLS.

    Attributes:
        certificate: The node's own, with its chain.
        key: Its private key.
        authority: What peers' certificates must be signed by; then a client has to show one.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key: expected both or none")
        return self


class Dicomweb(Frozen):
    """A DICOMweb server that is asked for new series; without `url` none is.

    Attributes:
        url: Its root, such as `https://pacs.hospital/dicom-web`.
        query: What QIDO-RS is to match, by keyword: `{Modality = "CT"}`.
        days: How far back `StudyDate` may lie; 0 asks for today alone.
        poll_s: Seconds between two queries.
        user, password_file: For HTTP basic authentication.
        authority: Certificates in PEM that the server's must be signed by; None: those of the system.
    """

    url: str = ""
    query: dict[str, str] = Field(default_factory=dict)
    days: Annotated[int, Field(ge=0, le=3650)] = 1
    poll_s: Seconds = 30.0
    user: str = ""
    password_file: Path | None = None
    authority: Path | None = None

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        if url and not re.fullmatch(r"https?://[^\s@]+", url):
            raise ValueError("expected http:// or https://, with no name or password in it")
        return url.rstrip("/")


class Listen(Frozen):
    """The DICOM node; relative paths of the file are relative to the file's folder.

    Attributes:
        aet: AE title, which a peer must call.
        port: TCP port; 0 lets the system choose one.
        bind: Address to listen at.
        allow: Who may come, as `AET@ADDRESS`; `*` stands for any.
        associations: How many at once.
        settle_s: Seconds without a new instance until a series counts as complete.
        send: Whether results leave this machine. Until then they are written to disk alone (shadow mode).
        destination: Where results go: `dicom://AET@HOST:PORT`, `dicoms://…` for TLS, the URL of a
            DICOMweb server, or a folder, `/PATH`.
        objects: DICOM objects that go out, some of `seg`, `sr`, `sc`. Where a destination does not take the
            first that there is, `sc`, a picture, goes instead.
        segmentation: `binary`, which every viewer takes, or `labelmap`.
        seg_keep_empty: Also store frames that hold nothing, between the first and the last of a segment that
            do; for all destinations, as results are made once.
        lenient: Resample volumes whose slices are no regular stack, in place of refusing them.
        model: Exported model; None: the one that is active in the site folder.
        timeout_s: Longest that one series may take.
        memory_gb: Memory that the process of the model may take; None: all.
        watermark_gb: Free disk space below which nothing more is received.
        retain_days: How long images and results are kept.
        metrics_port: Of metrics and health, at the loopback address; 0 lets the system choose one.
        folder: Where all is kept: journal, images, results.

    Example:
        >>> Listen(destination="PACS@10.1.2.4:104").destination
        ('PACS@10.1.2.4:104',)
    """

    aet: Annotated[str, spelt(_AET, "1 to 16 characters of ASCII, no backslash, no space at an end")] = (
        "FEDMED"
    )
    port: Port = 11112
    bind: Address = ipaddress.IPv4Address("127.0.0.1")
    allow: tuple[str, ...] = ("*@127.0.0.1",)
    associations: Annotated[int, Field(ge=1, le=256)] = 16
    settle_s: Seconds = 10.0
    send: bool = False
    destination: tuple[str, ...] = ()
    objects: tuple[Literal["seg", "sr", "sc"], ...] = ("seg", "sr")
    segmentation: Literal["binary", "labelmap"] = "binary"
    seg_keep_empty: bool = False
    lenient: bool = False
    model: Path | None = None
    timeout_s: Seconds = 600.0
    memory_gb: Annotated[float, Field(ge=0.1)] | None = None
    watermark_gb: Annotated[float, Field(ge=0.001)] = 5.0
    retain_days: Annotated[float, Field(gt=0, le=3650)] = 7.0
    metrics_port: Port = 11180
    folder: Path = Path("listen")
    tls: Tls = Tls()
    dicomweb: Dicomweb = Dicomweb()

    @field_validator("destination", mode="before")
    @classmethod
    def _one_or_many(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _usable(self) -> Self:
        for text in self.allow:
            Peer.parse(text)
        if self.send and not self.destination:
            raise ValueError("send: is true, expected a `destination` to send to")
        for text in self.destination:
            # A word alone may be meant as an AE title: results would lie in a folder that nobody looks into.
            if dicom_address(text) is None and not re.match(r"https?://[^\s@]+$|/", text):
                raise ValueError(
                    f"destination: has {text!r}, expected AET@HOST:PORT, dicoms://AET@HOST:PORT, "
                    "http(s)://HOST/PATH or a folder as /PATH"
                )
        if not self.tls.certificate and any(text.startswith("dicoms://") for text in self.destination):
            raise ValueError("destination: dicoms:// needs `certificate` and `key` in [listen.tls]")
        return self

    @property
    def peers(self) -> tuple[Peer, ...]:
        """`allow`, read."""
        return tuple(Peer.parse(text) for text in self.allow)


def dicom_address(destination: str) -> tuple[str, str, int] | None:
    """AE title, host and port of a DICOM node; None where the destination is none.

    Example:
        >>> dicom_address("dicom://PACS@10.1.2.4:104"), dicom_address("/results")
        (('PACS', '10.1.2.4', 104), None)
    """
    found = _DESTINATION.fullmatch(destination)
    if not found or not 0 < int(found["port"]) < 1 << 16:
        return None
    return found["aet"], found["host"].strip("[]"), int(found["port"])
