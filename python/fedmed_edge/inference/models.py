"""The life of a model beside the scanner: it comes, waits, proves itself, answers; or goes back."""

import hashlib
import logging
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fedmed_edge.atomic import TEMPORARY, read_regular, sync_folder, write_atomic
from fedmed_edge.errors import FedmedError, InputError, TrustError
from fedmed_edge.inference.model_folder import (
    FACTS,
    MODEL,
    ModelEntry,
    ModelFolder,
    read_document,
    variant_path,
    write_document,
)
from fedmed_edge.inference.predict import Model, load_models
from fedmed_edge.inference.sample import check_sample
from fedmed_edge.inference.scoring import score_model
from fedmed_edge.model.manifest import Precision
from fedmed_edge.signing import FILE_CAP, signature_path
from fedmed_edge.words import counted

if TYPE_CHECKING:
    from fedmed_edge.images.dataset import Dataset

__all__ = [
    "MARGIN",
    "Activation",
    "Verified",
    "activate",
    "add_model",
    "rollback",
    "verify_models",
    "verify_variants",
]

log = logging.getLogger(__name__)

MARGIN = 0.02
"""How far the site's own score may fall when a model becomes active."""


@dataclass(frozen=True)
class Verified:
    """A file of a model that is as it was signed; `found` tells what the sample of a task said."""

    precision: Precision
    device: str
    found: str
    task: str


@dataclass(frozen=True)
class Activation:
    """What became active, and why it might.

    Attributes:
        score: On the site's own labelled test images; None where there is none.
        score_before: Of the model that was active; None where there was none that could be asked.
        images: How many images these are of.
        forced: Whether it fell by more than the margin and was taken all the same.
        dropped: Tasks that the model before answered, and this one does not.
    """

    entry: ModelEntry
    score: float | None
    score_before: float | None
    images: int
    forced: bool
    dropped: tuple[str, ...] = ()


def add_model(folder: Path, file: Path, *, trust: Path | None, site: str | None = None) -> ModelEntry:
    """Take a model file, and the variants of other precision beside it, into a site folder; it then waits.

    The same file again changes nothing, but mends what is damaged.

    Args:
        folder: The site folder.
        trust: PEM file of the server's public key.
        site: Name of the site; one that was refined for another is refused then.

    Raises:
        TrustError: A signature is missing or wrong, an embedded sample is answered otherwise than it says, a
            variant is of another model, or the model was withdrawn.
        InputError: A file cannot be read, is no exported model, or cannot be kept.
    """
    content, models = read_regular(file, FILE_CAP), ModelFolder(folder)
    name = hashlib.sha256(content).hexdigest()[:16]
    with models.locked():
        models.sweep()
        new = models.path / f"{TEMPORARY}{secrets.token_hex(8)}"
        new.mkdir(mode=0o700)
        try:
            _copy(file, content, new)
            facts = _verified(new, file, trust, site)
            models.refuse_withdrawn([one["model"] for one in (facts, *facts.get("others", []))], file)
            write_document(new / FACTS, facts)
            if _is_sound(models.path / name, trust):
                _complete(models.path / name, new)
            else:
                models.forget(name)
                new.rename(models.path / name)
            sync_folder(models.path)
        except FedmedError as error:
            raise _of_the_given(error, new, file) from None
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return models.find(name)


def _of_the_given(error: FedmedError, copied: Path, file: Path) -> FedmedError:
    """The copy is what was checked; the user knows the file."""
    text = str(error)
    for precision in get_args(Precision):
        text = text.replace(str(variant_path(copied / MODEL, precision)), str(variant_path(file, precision)))
    return type(error)(text, hint=error.hint)


def verify_models(path: Path, *, trust: Path | None, device: str = "auto") -> tuple[Model, ...]:
    """Load every task of a model after checking signature and content, and have each answer its sample.

    Raises:
        TrustError: The signature is not right, or the sample is answered otherwise than it says.
        InputError: The file cannot be read, or is no exported model.
        DeviceError: The asked device did not come up.
    """
    models = load_models(path, trust=trust, device=device)
    for model in models:
        check_sample(model)
    return models


def verify_variants(entry: ModelEntry, *, trust: Path | None, device: str = "auto") -> list[Verified]:
    """Verify every file of a kept model.

    Raises:
        TrustError, InputError, DeviceError: As `verify_models`; a file is not the one of its name.
    """
    if hashlib.sha256(read_regular(entry.path, FILE_CAP)).hexdigest()[:16] != entry.name:
        raise TrustError(
            f"{entry.path}: is not the file that was added as {entry.name}",
            hint="add the same model again, which mends it, or go back with `fedmed-edge model rollback`",
        )
    found = []
    for precision in entry.precisions:
        for model in load_models(variant_path(entry.path, precision), trust=trust, device=device):
            off = check_sample(model)
            told = "no sample in it"
            if off is not None:
                told = f"sample off by {off.probabilities:.1e}, distance by {off.distance:.1e}"
            found.append(Verified(precision, model.device, f"signature right, {told}", model.manifest.task))
    return found


def activate(
    folder: Path,
    name: str = "",
    *,
    trust: Path | None,
    check_set: "Dataset | None" = None,
    margin: float = MARGIN,
    force: bool = False,
    device: str = "auto",
) -> Activation:
    """Have a model answer from now on, after it was verified and scored on the site's own images.

    Args:
        name: Beginning of its name or digest; empty takes the one that waits, the newest of several.
        check_set: Labelled images that it was not made from: the test split of the site; None: not scored.
        margin: How far the score may be below that of the active model.
        force: Take it however low it scores.

    Raises:
        TrustError: It was withdrawn, or is not as it was signed.
        InputError: There is no such model, none waits, or it scores too low.
        DeviceError: The asked device did not come up.
    """
    models = ModelFolder(folder)
    entry = models.find(name) if name else _newest_waiting(models)
    models.refuse_withdrawn(entry.digests, entry.path)
    loaded = verify_models(entry.path, trust=trust, device=device)
    active, _ = models.roles()
    if active == entry.name:
        return Activation(entry, None, None, 0, False)
    score, before, images = None, None, check_set.labelled if check_set else ()
    if check_set and images:
        score = _score(loaded, check_set, force)
        before = _score_of_active(models, check_set, trust, device)
    least = 0.0 if before is None else before - margin
    fell = score is not None and score < least
    if fell and not force:
        raise InputError(
            f"model {entry.name}: score on {counted(len(images), 'test image')} of this site "
            f"has {score:.3f}, expected at least {least:.3f}, that of the active model less {margin:g}",
            hint="the active model stays; --force takes the new one all the same",
        )
    # Not held while images are scored, which may take hours: a rollback or a withdrawal would wait.
    with models.locked():
        models.refuse_withdrawn(models.find(entry.name).digests, entry.path)
        now, previous = models.roles()
        if now != active:
            raise InputError(
                f"model {entry.name}: another one became active while it was scored", hint="activate it again"
            )
        answered = models.find(active).tasks if active else ()
        dropped = tuple(task for task in answered if task not in entry.tasks)
        models.set_roles(entry.name, active)
        if previous is not None and previous != entry.name:
            models.forget(previous)
    return Activation(models.find(entry.name), score, before, len(images), fell, dropped)


def rollback(folder: Path, *, trust: Path | None) -> ModelEntry:
    """Have the model answer that did before; the one that is active waits again.

    Raises:
        InputError: There was none before.
        TrustError: The one before was withdrawn, or is no longer as it was signed.
    """
    models = ModelFolder(folder)
    with models.locked():
        _, previous = models.roles()
        if previous is None:
            raise InputError("models: none was active before, expected one to go back to")
        entry = models.find(previous)
        models.refuse_withdrawn(entry.digests, entry.path)
        verify_models(entry.path, trust=trust, device="cpu")
        models.set_roles(previous, None)
    return models.find(previous)


def _copy(file: Path, content: bytes, target: Path) -> None:
    """The file, its variants and their signatures, as they are now."""
    for precision in get_args(Precision):
        source, kept = variant_path(file, precision), variant_path(target / MODEL, precision)
        if precision != "fp32" and not source.exists():
            continue
        write_atomic(kept, content if precision == "fp32" else read_regular(source, FILE_CAP))
        if signature_path(source).exists():
            write_atomic(signature_path(kept), read_regular(signature_path(source), 1 << 12))


def _verified(new: Path, file: Path, trust: Path | None, site: str | None) -> dict[str, Any]:
    """What the copied model says of itself, once every file of it was verified."""
    models, precisions = verify_models(new / MODEL, trust=trust, device="cpu"), ["fp32"]
    first = models[0].manifest
    for refined_for in (model.manifest.refined_for for model in models):
        if site is not None and refined_for not in (None, site):
            raise InputError(
                f"{file}: was refined for {refined_for}, expected {site} or the global model",
                hint=f"`fedmed-server export` writes the global one, `--refined {site}` that of this site",
            )
    if first.precision != "fp32":
        raise InputError(
            f"{file}: `precision` has {first.precision}, expected fp32",
            hint="add the FP32 file; variants beside it come along",
        )
    for precision in get_args(Precision)[1:]:
        path = variant_path(new / MODEL, precision)
        if not path.exists():
            continue
        variants = verify_models(path, trust=trust, device="cpu")
        wanted = [(model.digest, precision) for model in models]
        if [(variant.digest, variant.manifest.precision) for variant in variants] != wanted:
            raise TrustError(
                f"{variant_path(file, precision)}: is not the {precision} variant of {file.name}"
            )
        precisions.append(precision)
    facts, *others = [
        {
            "model": model.digest,
            "task": model.manifest.task,
            "generation": model.manifest.generation,
            "sites": model.manifest.sites,
        }
        for model in models
    ]
    return {**facts, "precisions": precisions, **({"others": others} if others else {})}


def _is_sound(kept: Path, trust: Path | None) -> bool:
    """Whether the model is kept there already, undamaged."""
    try:
        facts = _verified(kept, kept, trust, None)
        return bool(read_document(kept / FACTS)["precisions"] == facts["precisions"])
    except FedmedError:
        return False


def _complete(kept: Path, new: Path) -> None:
    """Add the variants that came later."""
    missing = [file for file in sorted(new.iterdir()) if not (kept / file.name).exists()]
    for file in missing:
        file.rename(kept / file.name)
    if missing:
        (new / FACTS).rename(kept / FACTS)


def _newest_waiting(models: ModelFolder) -> ModelEntry:
    entries = [entry for entry in models.entries() if entry.state == "waiting"]
    if not entries:
        raise InputError("models: none waits, expected one", hint="`fedmed-edge model add FILE` brings one")
    return entries[0]


def _score(models: tuple[Model, ...], check_set: "Dataset", force: bool) -> float | None:
    """Score of the task that the images are of; None where none is, which only `force` lets through."""
    task = check_set.recipe.name
    asked = [one for one in models if len(models) == 1 or one.manifest.task == task]
    try:
        if not asked:
            names = ", ".join(one.manifest.task for one in models)
            raise InputError(f"model: answers {names}, expected {task}, which the test images are of")
        return score_model(asked[0], check_set)
    except InputError as error:
        if not force:
            raise
        log.warning("warning: the new model is not scored: %s", error)
        return None


def _score_of_active(
    models: ModelFolder, check_set: "Dataset", trust: Path | None, device: str
) -> float | None:
    """None where no model is active, or where the active one can no longer be used."""
    try:
        return _score(verify_models(models.active().path, trust=trust, device=device), check_set, force=False)
    except FedmedError as error:
        log.info("nothing to compare the new model with: %s", error)
        return None
