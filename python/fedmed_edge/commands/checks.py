"""What `fedmed-edge doctor` looks at: one small function a check."""

import importlib.util
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed_edge.commands import inference_checks
from fedmed_edge.commands.connection_checks import connection_looks
from fedmed_edge.commands.folders import (
    check_writable_folder,
    read_site,
    read_site_generation,
)
from fedmed_edge.commands.handing_over import newest_generation
from fedmed_edge.config import SiteConfig
from fedmed_edge.errors import FedmedError, InputError, Withheld
from fedmed_edge.kernels import thread_count
from fedmed_edge.recipe import read_recipe
from fedmed_edge.runtime import PROBE, installed_flavours, open_session
from fedmed_edge.signing import fingerprint, read_private_key, read_public_key
from fedmed_edge.words import counted

if TYPE_CHECKING:
    from fedmed_edge.images.dataset import Dataset

LEAST_DISK = 2 << 30
RELEASE_YEAR = 2025
CLOCK_SLACK_S = 60
# where onnxruntime keeps what it would send
EVENTS = Path("~/.cache/Microsoft/DeveloperTools/.onnxruntime")
Answer = tuple[str, str] | tuple[str, str, str]
Look = Callable[[SiteConfig], Answer]
Read = Callable[[Path, Path], "Dataset"]


@dataclass(frozen=True)
class Check:
    """What was looked at; `ok`, `warning` or `fault`; what was found; what to do about it."""

    name: str
    level: str
    found: str
    hint: str | None = None


def examine(folder: Path) -> Iterator[Check]:
    """Every check of the site in `folder`; what one of them raises is its fault and ends no other."""
    config, looks = SiteConfig(site="unset", key=folder / "site.key"), MACHINE_LOOKS
    try:
        config = _with_what_came(folder, read_site(folder))
        looks = site_looks(folder) | connection_looks(folder) | MACHINE_LOOKS
        yield Check("settings", "ok", f"{folder / 'fedmed.toml'}: site {config.site}")
    except FedmedError as error:
        yield Check("settings", "fault", str(error), error.hint)
    for name, look in looks.items():
        yield guarded(name, look, config)


def _with_what_came(folder: Path, config: SiteConfig) -> SiteConfig:
    """The settings; as for `contribute`, with the newest generation that came where theirs is not here."""
    try:
        came = None if config.generation.exists() else newest_generation(folder)
    except InputError:
        came = None
    return config.model_copy(update={"generation": came}) if came else config


def guarded(name: str, look: Look, config: SiteConfig) -> Check:
    """One check, what it raises being its fault."""
    try:
        return Check(name, *look(config))
    except FedmedError as error:
        return Check(name, "fault", str(error), error.hint)
    except OSError as error:
        return Check(name, "fault", f"{error.filename}: cannot be read: {error.strerror}")


def _folder(folder: Path, config: SiteConfig) -> Answer:
    check_writable_folder(folder)
    return "ok", f"{folder.absolute()}: files can be made in it"


def _recipe(config: SiteConfig) -> Answer:
    recipe = read_recipe(config.recipe)
    return "ok", f"{recipe.name}, {recipe.kind} of {', '.join(recipe.classes)}"


def _read(data: Path, recipe: Path) -> "Dataset":
    from fedmed_edge.images.dataset import read_dataset

    return read_dataset(data, read_recipe(recipe))


def _data(read: Read, config: SiteConfig) -> Answer:
    from fedmed_edge.images.preprocess import prepare

    dataset, least = read(config.data, config.recipe), config.policy.min_cohort
    train = dataset.train
    for item in train.items[:1]:
        prepare(train.load(item), train.recipe)
    counts = train.counts()
    found = (
        f"{len(train)} training and {counted(len(dataset.test), 'test image')}; training patients: "
        + ", ".join(f"{name} {count}" for name, count in counts.items())
    )
    small = [name for name, count in counts.items() if count < least]
    labelled = set(train.labelled)
    unlabelled = {item.patient for item in train if item not in labelled}
    if len(small) == len(counts) and len(unlabelled) < least:
        return "fault", found, f"nothing reaches `min_cohort` {least}: more patients are needed to contribute"
    hint = f"below `min_cohort` {least} and left out: {', '.join(small)}"
    return ("warning", found, hint) if small else ("ok", found)


def _generation(config: SiteConfig) -> Answer:
    from fedmed_edge.features.encoder import require_fit

    if not config.generation.exists():
        hint = "`agent` fetches what the server publishes; or ask its admin for the file"
        return "warning", f"{config.generation}: not here yet", hint
    generation = read_site_generation(config)
    require_fit(generation, read_recipe(config.recipe))
    kind = "draft" if generation.draft else "generation"
    return "ok", f"{kind} {generation.digest[:12]}, rows of {generation.row_dim}"


def _policy(folder: Path, read: Read, config: SiteConfig) -> Answer:
    from fedmed_edge.features.extract import plan_dataset
    from fedmed_edge.federation.policy import rules_told
    from fedmed_edge.federation.releases import Releases
    from fedmed_edge.statistics.width_rule import too_wide

    policy = config.policy
    found = "; ".join(f"{name}: {rule}" for name, rule in rules_told(policy).items())
    if policy.epsilon is not None and importlib.util.find_spec("dp_accounting") is None:
        return "fault", found, 'noise needs an extra: pip install "fedmed-edge[privacy]"'
    releases = Releases(folder)
    try:
        releases.refuse_any(policy)
    except Withheld as error:  # a budget that is spent is nothing out of order
        return "fault" if releases.lost else "warning", found, f"{error}; {error.hint}"
    if policy.epsilon is not None or not config.generation.exists():
        return "ok", found
    train = read(config.data, config.recipe).train
    _, plan = plan_dataset(train, policy.min_cohort)
    fault = too_wide(plan, read_site_generation(config), train.recipe, policy)
    if fault is not None:
        level = "fault" if policy.width_rule == "refuse" else "warning"
        return level, found, f"{fault}; {fault.hint}"
    return "ok", found


def _key(config: SiteConfig) -> Answer:
    mark = fingerprint(read_private_key(config.key).public_key())
    mode = stat.S_IMODE(config.key.stat().st_mode)
    if mode & 0o077:
        return "fault", f"{config.key}: `mode` has {mode:04o}, expected 0600", f"chmod 600 {config.key}"
    return "ok", f"{mark}, mode {mode:04o}"


def _server_key(config: SiteConfig) -> Answer:
    if config.server_key is None:
        return "warning", "none named", "set `server_key` in fedmed.toml, else no generation is trusted"
    return "ok", f"{fingerprint(read_public_key(config.server_key))}; the server's admin must see the same"


def _runtime(config: SiteConfig) -> Answer:
    open_session(PROBE, device="cpu")
    if os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        raise InputError("runtime: telemetry is on", hint="unset what changes ORT_DISABLE_TELEMETRY")
    flavour = next(iter(installed_flavours()), "")
    if EVENTS.expanduser().exists():
        hint = f"delete {EVENTS}; set ORT_DISABLE_TELEMETRY=1 for every other program"
        return "warning", "telemetry off here, but another program had it on", hint
    return "ok", f"{flavour} {version(flavour)}, telemetry off" if flavour else "there, telemetry off"


def _device(config: SiteConfig) -> Answer:
    got = open_session(PROBE, device=config.device).device
    if got == "cpu" and "onnxruntime-gpu" in installed_flavours() and config.device == "auto":
        return "warning", "asked for auto, cpu came up", "check the driver with nvidia-smi"
    return "ok", f"asked for {config.device}, {got} came up"


def _torch(config: SiteConfig) -> Answer:
    if importlib.util.find_spec("torch") is None:
        return "ok", 'not installed; only `train` and `demo` need it: pip install "fedmed-edge[train]"'
    return "ok", f"{version('torch')}, for `train`"


def _disk(config: SiteConfig) -> Answer:
    folder = config.key.parent
    while not folder.exists():
        folder = folder.parent
    free, found = _free(folder)
    if free < LEAST_DISK:
        return "warning", found, "make room: 2 GiB are wise"
    listens, watermark = config.listen.folder, config.listen.watermark_gb
    if listens.exists():  # on a disk of its own, maybe
        free, there = _free(listens)
        if free < watermark * 10**9:
            return "warning", there, f"below `watermark_gb` {watermark:g}, `listen` receives nothing"
    return "ok", found


def _free(folder: Path) -> tuple[int, str]:
    free = shutil.disk_usage(folder).free
    return free, f"{free / 2**30:.1f} GiB free at {folder.absolute()}"


def _clock(config: SiteConfig) -> Answer:
    now, zone = time.time(), time.strftime("%Y-%m-%d %H:%M:%S %z")
    if time.gmtime(now).tm_year < RELEASE_YEAR:
        return "fault", f"{zone}: before this software was made", "set the clock, best by NTP"
    files = [path for path in (config.key, config.recipe, config.data / "labels.csv") if path.exists()]
    ahead = [path for path in files if path.stat().st_mtime > now + CLOCK_SLACK_S]
    if ahead:
        return "warning", f"{zone}: {ahead[0]} is from the future", "check the clock, best by NTP"
    return "ok", zone


def _processor(config: SiteConfig) -> Answer:
    cores, threads = os.cpu_count() or 1, config.threads or thread_count()
    found = f"{counted(cores, 'processor')}, {counted(threads, 'thread')}"
    return ("warning", found, "more threads than processors slow down") if threads > cores else ("ok", found)


def site_looks(folder: Path) -> dict[str, Look]:
    """The looks at a site; its key may lie elsewhere."""
    read = cache(_read)  # once, and so is what it warns of
    return {
        "folder": partial(_folder, folder),
        "recipe": _recipe,
        "data": partial(_data, read),
        "generation": _generation,
        "policy": partial(_policy, folder, read),
        "key": _key,
        "server key": _server_key,
        "model": partial(inference_checks.model, folder),
    }


MACHINE_LOOKS: dict[str, Look] = {
    "runtime": _runtime,
    "device": _device,
    "devices": inference_checks.devices,
    "codecs": inference_checks.codecs,
    "torch": _torch,
    "disk": _disk,
    "clock": _clock,
    "processor": _processor,
}
