"""The folder of a site's models: which are here, which one answers, which may not.

`SITE/models/NAME/` holds one model and is never changed; `SITE/models/active.json` says which one answers,
and which one did before. Every change is one rename, so that a killed process leaves the older state.
"""

import json
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args

from fedmed_edge.atomic import TEMPORARY, locked, read_regular, write_atomic
from fedmed_edge.errors import InputError, TrustError
from fedmed_edge.model.manifest import Precision

__all__ = ["ModelEntry", "ModelFolder", "OtherTask", "precisions_beside", "variant_path"]

State = Literal["active", "previous", "waiting", "withdrawn"]

MODEL, FACTS = "model.onnx", "facts.json"
_ACTIVE, _WITHDRAWN, _LOCK = "active.json", "withdrawn.json", ".lock"
_TASK = {"model": str, "task": str, "generation": str, "sites": int}
_FACTS = {**_TASK, "precisions": list}
_MENDING = {
    FACTS: "delete the folder that it is in, then add the same model again",
    _ACTIVE: "delete it, then say with `fedmed-edge model activate` which model answers",
    _WITHDRAWN: "delete it; `agent` asks the server again what was withdrawn",
}


@dataclass(frozen=True)
class OtherTask:
    """A task that a file answers beside its first one; fields as of `ModelEntry`."""

    task: str
    model: str
    generation: str
    sites: int


@dataclass(frozen=True)
class ModelEntry:
    """One model of a site folder.

    Attributes:
        name: The first 16 digits of its file's SHA-256, and its folder's name.
        model: Digest, as `fedmed-server rebuild` prints it.
        task, generation, sites: What it answers, and what it was made of.
        state: `active` answers; `previous` did before and is what `rollback` goes back to; `waiting` does
            not yet; `withdrawn` never again.
        path: Its FP32 file; others stand beside it.
        precisions: Of the files that came with it, `fp32` first.
        others: Of a file that answers several tasks, all but the first.
    """

    name: str
    model: str
    task: str
    generation: str
    sites: int
    state: State
    path: Path
    precisions: tuple[Precision, ...]
    others: tuple[OtherTask, ...] = ()

    @property
    def digests(self) -> tuple[str, ...]:
        """Of every model in it."""
        return self.model, *(one.model for one in self.others)

    @property
    def tasks(self) -> tuple[str, ...]:
        """That it answers."""
        return self.task, *(one.task for one in self.others)


def variant_path(path: Path, precision: Precision) -> Path:
    """Where the variant of a model file lies: `lesion.onnx` → `lesion.int8.onnx`.

    Example:
        >>> variant_path(Path("lesion.onnx"), "int8").name
        'lesion.int8.onnx'
    """
    return path if precision == "fp32" else path.with_name(f"{path.stem}.{precision}{path.suffix}")


def precisions_beside(path: Path) -> tuple[Precision, ...]:
    """Precisions that there are files of: `fp32` and those whose variant stands beside the model file."""
    return tuple(p for p in get_args(Precision) if p == "fp32" or variant_path(path, p).exists())


class ModelFolder:
    """The models of a site folder; reading needs no lock, changing is done within `locked`.

    Args:
        site: The site folder.

    Attributes:
        path: Where the models are.
    """

    def __init__(self, site: Path) -> None:
        self.path = site / "models"

    def entries(self) -> list[ModelEntry]:
        """The active model, the one before, those that wait (newest first), the withdrawn.

        Raises:
            InputError: A file of ours in it is damaged.
        """
        active, previous = self.roles()
        withdrawn = self._withdrawn()
        found = []
        for facts in self.path.glob(f"[!.]*/{FACTS}"):
            values, name = read_document(facts, **_FACTS), facts.parent.name
            roles: dict[str | None, State] = {previous: "previous", active: "active"}
            others = _others(facts, values)
            gone = not withdrawn.isdisjoint([values["model"], *(one.model for one in others)])
            state: State = "withdrawn" if gone else roles.get(name, "waiting")
            entry = ModelEntry(
                name=name,
                model=values["model"],
                task=values["task"],
                generation=values["generation"],
                sites=values["sites"],
                state=state,
                path=facts.with_name(MODEL),
                precisions=tuple(values["precisions"]),
                others=others,
            )
            found.append((get_args(State).index(state), -facts.stat().st_mtime_ns, name, entry))
        return [entry for *_, entry in sorted(found)]

    def find(self, name: str) -> ModelEntry:
        """The one model whose name or digest begins with `name`.

        Raises:
            InputError: There is none, or more than one.
        """
        entries = self.entries()
        fitting = [
            entry for entry in entries if any(one.startswith(name) for one in (entry.name, *entry.digests))
        ]
        if len(fitting) != 1:
            raise InputError(
                f"models: {len(fitting)} models begin with `{name}`, expected one",
                hint=f"here are: {', '.join(entry.name for entry in entries) or 'none'}",
            )
        return fitting[0]

    def active(self) -> ModelEntry:
        """The model that answers.

        Raises:
            InputError: None is active.
            TrustError: It was withdrawn.
        """
        active, _ = self.roles()
        if active is None:
            raise InputError(
                "models: none is active, expected one",
                hint="`fedmed-edge model add FILE`, `fedmed-edge model activate`; or name one with --model",
            )
        entry = self.find(active)
        self.refuse_withdrawn(entry.digests, entry.path)
        return entry

    def roles(self) -> tuple[str | None, str | None]:
        """Names of the active model and of the one before."""
        if not (self.path / _ACTIVE).exists():
            return None, None
        values = read_document(self.path / _ACTIVE, active=str | None, previous=str | None)
        return values.get("active"), values.get("previous")

    def set_roles(self, active: str, previous: str | None) -> None:
        """Swap the active model, in one rename."""
        write_document(self.path / _ACTIVE, {"active": active, "previous": previous})

    def mark_withdrawn(self, digests: Iterable[str]) -> None:
        """Never use these models again, those here and those to come.

        Args:
            digests: As `fedmed-server rebuild` prints them.
        """
        told = set(digests)
        if told <= self._withdrawn():  # told at every contact; the lock may be held while a model is scored
            return
        with self.locked():
            write_document(self.path / _WITHDRAWN, {"models": sorted(self._withdrawn() | told)})

    def refuse_withdrawn(self, digests: Sequence[str], path: Path) -> None:
        """Refuse a file with a model in it that was withdrawn; `path` names it in the message.

        Raises:
            TrustError: One was.
        """
        withdrawn = self._withdrawn()
        for digest in (one for one in digests if one in withdrawn):
            raise TrustError(
                f"{path}: model {digest[:12]} was withdrawn",
                hint="a hospital in it left: take the newest, or go back with `fedmed-edge model rollback`",
            )

    def forget(self, name: str) -> None:
        """Delete a model: out of sight in one step, then from the disk."""
        gone = self.path / f"{TEMPORARY}{secrets.token_hex(8)}"
        if (self.path / name).exists():
            (self.path / name).rename(gone)
            shutil.rmtree(gone)

    def sweep(self) -> None:
        """Delete what killed processes left."""
        for left in self.path.glob(f"{TEMPORARY}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time changes the folder; a killed one lets go.

        Raises:
            InputError: The folder cannot be written to.
        """
        with locked(self.path / _LOCK):
            yield

    def _withdrawn(self) -> set[str]:
        path = self.path / _WITHDRAWN
        return set(read_document(path, models=list)["models"]) if path.exists() else set()


def _others(facts: Path, values: dict[str, Any]) -> tuple[OtherTask, ...]:
    try:
        found = [{name: one[name] for name in _TASK} for one in values.get("others", [])]
    except (KeyError, TypeError):
        raise _damaged(facts) from None
    if any(not isinstance(one[name], kind) for one in found for name, kind in _TASK.items()):
        raise _damaged(facts)
    return tuple(OtherTask(**one) for one in found)


def write_document(path: Path, values: dict[str, Any]) -> None:
    """Write a file of the folder: JSON of format 1."""
    write_atomic(path, (json.dumps({"format_version": 1} | values, indent=1) + "\n").encode())


def read_document(path: Path, **wanted: type | UnionType) -> dict[str, Any]:
    """What `write_document` wrote.

    Args:
        wanted: Keys that it must have, and their types.

    Raises:
        InputError: It is missing, damaged or of a newer release.
    """
    try:
        values = json.loads(read_regular(path, 1 << 22))
        if values["format_version"] == 1 and all(isinstance(values.get(k), wanted[k]) for k in wanted):
            return dict(values)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise _damaged(path)


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: damaged, or of a newer release", hint=_MENDING.get(path.name))
