"""Which file and device answer: the active model, as `bench` found it fastest on this machine."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from fedmed_edge.config import Device
from fedmed_edge.errors import DeviceError, InputError
from fedmed_edge.inference.model_folder import (
    ModelEntry,
    ModelFolder,
    read_document,
    variant_path,
    write_document,
)
from fedmed_edge.inference.predict import Model, load_models
from fedmed_edge.machine import fingerprint
from fedmed_edge.model.manifest import Precision

log = logging.getLogger(__name__)

_CHOICE = "choice.json"


@dataclass(frozen=True)
class Choice:
    """Precision and device that a model runs best with on one machine."""

    precision: Precision
    device: str


def load_active(site: Path, *, trust: Path | str | None, device: str = "auto") -> tuple[Model, ...]:
    """Load every task of the active model; where `bench` measured it on this machine, as it chose.

    Args:
        site: The site folder.
        trust: PEM file of the server's public key.
        device: `auto` takes the chosen one; a choice of another device than the asked one does not count.

    Raises:
        InputError: No model is active, or it cannot be loaded.
        TrustError: It was withdrawn, or is not as it was signed.
        DeviceError: The asked device did not come up.
    """
    entry = ModelFolder(site).active()
    choice = read_choice(entry)
    if choice is not None and device in ("auto", choice.device):
        try:
            return load_models(variant_path(entry.path, choice.precision), trust=trust, device=choice.device)
        except DeviceError as error:
            if device != "auto":
                raise
            log.warning(
                "warning: %s, which `fedmed-edge bench` chose, cannot be used: %s", choice.device, error
            )
    return load_models(entry.path, trust=trust, device=device)


def write_choice(entry: ModelEntry, choice: Choice) -> None:
    """Keep a choice beside its model, for this machine.

    Raises:
        InputError: It cannot be written.
    """
    values = {"machine": fingerprint(), "precision": choice.precision, "device": choice.device}
    write_document(entry.path.with_name(_CHOICE), values)


def read_choice(entry: ModelEntry) -> Choice | None:
    """What `bench` chose on this machine; None where it did not run, or processor, GPU or runtime changed."""
    path = entry.path.with_name(_CHOICE)
    if not path.exists():
        return None
    try:
        values = read_document(path)
    except InputError as error:
        log.warning("warning: %s", error)
        return None
    precision, device = values.get("precision"), values.get("device")
    if precision not in entry.precisions or device not in get_args(Device):
        return None
    return Choice(precision, str(device)) if values.get("machine") == fingerprint() else None
