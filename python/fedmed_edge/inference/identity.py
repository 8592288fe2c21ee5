"""Who made a result: names and UIDs that every object of ours carries. Loads no DICOM library."""

import hashlib
import uuid

import fedmed_edge
from fedmed_edge.model.manifest import Manifest
from fedmed_edge.words import counted

RESEARCH_USE = "RESEARCH USE ONLY"
"""Stands in every DICOM object: at the beginning of SeriesDescription, in the report, in the pixels."""

_LONG_STRING = 64


def derived_uid(*parts: str) -> str:
    """A UID that follows from texts: the same ones give the same UID, at any time and place.

    Source: DICOM PS3.5 B.2 (UUID derived UID), RFC 9562 5.8 (UUID version 8).

    Example:
        >>> derived_uid("seg", "1.2.3") == derived_uid("seg", "1.2.3") != derived_uid("sr", "1.2.3")
        True
    """
    digest = bytearray(hashlib.sha256("\0".join(parts).encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return f"2.25.{uuid.UUID(bytes=bytes(digest)).int}"


def device_uid(manifest: Manifest) -> str:
    """UID of a model as a device that makes results: another one for each model of each generation."""
    return derived_uid("model", manifest.model, manifest.generation)


def software_versions(manifest: Manifest) -> list[str]:
    """Version of the program and digest of the model, as SoftwareVersions (0018,1020) holds them."""
    return [fedmed_edge.__version__, manifest.model[:_LONG_STRING]]


def description(manifest: Manifest, what: str) -> str:
    """SeriesDescription of an object; cut off to what DICOM takes."""
    return f"{RESEARCH_USE}: {manifest.task} {what}"[:_LONG_STRING]


def provenance(manifest: Manifest) -> str:
    """What made a result, in a sentence."""
    made_by = f"digest {manifest.model}, generation {manifest.generation}"
    return f"Model of task {manifest.task} from {counted(manifest.sites, 'site')}, {made_by}"
