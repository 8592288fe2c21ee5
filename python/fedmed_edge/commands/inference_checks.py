"""What `fedmed-edge doctor` looks at where a site answers images: devices, codecs, the active model."""

from pathlib import Path

from fedmed_edge.config import SiteConfig
from fedmed_edge.errors import InputError
from fedmed_edge.runtime import usable_devices
from fedmed_edge.words import counted

Answer = tuple[str, str] | tuple[str, str, str]


def devices(config: SiteConfig) -> Answer:
    """Which devices a session really comes up on."""
    found = usable_devices()
    there = [name for name, why in found.items() if not why]
    missing = [name for name in found if name not in there]
    verb = "comes up" if len(there) == 1 else "come up"
    return "ok", f"{', '.join(there)} {verb}" + (f"; not here: {', '.join(missing)}" if missing else "")


def codecs(config: SiteConfig) -> Answer:
    """Which compressed DICOM files can be read."""
    from fedmed_edge.images.dicom_pixels import missing_codecs

    missing = missing_codecs()
    if missing:
        return "warning", f"not readable: {', '.join(missing)}", 'pip install "fedmed-edge[codecs]"'
    return "ok", "every compressed transfer syntax is readable, JPEG of 12 bits with pylibjpeg-libjpeg alone"


def model(folder: Path, config: SiteConfig) -> Answer:
    """Whether the active model is as it was signed and answers its sample here."""
    from fedmed_edge.inference.choice import read_choice
    from fedmed_edge.inference.model_folder import ModelFolder
    from fedmed_edge.inference.models import verify_variants

    models = ModelFolder(folder)
    waiting = [entry for entry in models.entries() if entry.state == "waiting"]
    more = f"; {counted(len(waiting), 'waits', 'wait')} for `fedmed-edge model activate`" if waiting else ""
    try:
        entry = models.active()
    except InputError:
        return "ok", f"none is active{more}"
    verify_variants(entry, trust=config.server_key, device=config.device)
    choice = read_choice(entry)
    chosen = f"{choice.precision} on {choice.device}" if choice else "not measured with `fedmed-edge bench`"
    return "ok", f"{entry.name} of {counted(entry.sites, 'site')}, signature and sample right, {chosen}{more}"
