"""What an experiment has finished so far, on disk: running it again goes on from there."""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedmed_edge.atomic import write_atomic
from fedmed_edge.errors import InputError
from fedmed_edge.features.backbones import set_state, state_of
from fedmed_edge.features.training import Network, build_network
from fedmed_edge.generation import Generation, parse_generation
from fedmed_edge.images.dataset import Dataset
from fedmed_edge.images.fingerprint import Stamp, content_digest, stamp
from fedmed_edge.recipe import Recipe
from fedmed_edge.study.networks import Cost
from fedmed_edge.study.scores import Answers

log = logging.getLogger(__name__)

_SETTING = "setting.json"


class Notebook:
    """Finished steps of one experiment, one file a step.

    Args:
        folder: Made where it is missing.
        setting: What the steps depend on; a folder that was begun with something else is refused.

    Raises:
        InputError: The folder holds another experiment.
    """

    def __init__(self, folder: Path, setting: dict[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(setting, sort_keys=True, indent=1)
        path = folder / _SETTING
        if path.exists() and path.read_text() != text:
            raise InputError(
                f"{folder}: holds an experiment of other settings", hint="choose another folder with --out"
            )
        write_atomic(path, text.encode())

    @staticmethod
    def begun(folder: Path) -> bool:
        """Whether an experiment was begun in the folder."""
        return (folder / _SETTING).exists()

    @classmethod
    def keyed(cls, folder: Path, name: str, setting: dict[str, Any]) -> "Notebook":
        """The notebook of a setting among many in one folder: named by `name` and the setting's digest."""
        return cls(folder / f"{name}-{digest_of(setting)[:16]}", setting)

    def network(
        self, name: str, recipe: Recipe, make: Callable[[], tuple[Network, Cost]]
    ) -> tuple[Network, Cost]:
        """The network and its cost, trained only where that was not finished before."""
        path, paid = self.folder / f"{name}.safetensors", self.folder / f"{name}-cost.json"
        cost = read_document(paid)
        if path.exists() and cost is not None:
            try:
                network = build_network(recipe)
                set_state(network, load(path.read_bytes()), str(path))
                return network, Cost(**cost)
            except (SafetensorError, InputError) as error:
                tell_damaged(path, error)
        network, spent = make()
        write_atomic(paid, json.dumps(spent.document()).encode())
        write_atomic(path, save({key: value for key, value in state_of(network).items()}))
        return network, spent

    def generation(self, name: str, make: Callable[[], Generation]) -> Generation:
        """The generation, published only where that was not finished before."""
        path = self.folder / f"{name}.generation"
        if path.exists():
            try:
                return parse_generation(path.read_bytes(), str(path))
            except InputError as error:
                tell_damaged(path, error)
        write_atomic(path, make().content)
        return parse_generation(path.read_bytes(), str(path))

    def answers(self, name: str, make: Callable[[], dict[str, Answers]]) -> dict[str, Answers]:
        """Answers by site, asked for only where that was not finished before."""
        stored = self.document(
            f"{name}-answers", lambda: {site: one.document() for site, one in make().items()}
        )
        return {site: Answers(**one) for site, one in stored.items()}

    def document(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A JSON document, made only where that was not finished before."""
        return kept_document(self.folder / f"{name}.json", make)


def kept_document(
    path: Path, make: Callable[[], dict[str, Any]], keys: Collection[str] = ()
) -> dict[str, Any]:
    """The JSON document of a file; made where there is none with these keys, and then as it reads again."""
    found = read_document(path, keys)
    if found is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(make())
        write_atomic(path, content.encode())
        found = dict(json.loads(content))
    return found


def read_document(path: Path, keys: Collection[str] = ()) -> dict[str, Any] | None:
    """A JSON document with these keys; None where there is none, or a damaged one, which is told."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict) or not set(keys) <= found.keys():
            raise ValueError("it does not hold what it should")
    except ValueError as error:
        tell_damaged(path, error)
        return None
    return found


def tell_damaged(path: Path, error: Exception) -> None:
    """Say that a file which was kept is of no use."""
    log.warning("warning: %s: is damaged and is made again: %s", path, error)


def digest_of(setting: Any) -> str:
    """SHA-256 of JSON values, in hexadecimal."""
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()


def images_digest(data: Mapping[str, Dataset]) -> str:
    """SHA-256 over what the data sets list and the bytes of images and masks; a setting may hide labels."""
    digest = hashlib.sha256()
    for site, dataset in data.items():
        for item in dataset:
            files = [None if path is None else _content(path) for path in (item.image, item.mask)]
            place = item.image.relative_to(dataset.folder).as_posix()
            digest.update(repr((site, place, item.label, item.patient, item.split, *files)).encode())
    return digest.hexdigest()


def _content(path: Path) -> str:
    return _read_once(path, stamp(path))


@lru_cache(maxsize=1 << 17)
def _read_once(path: Path, as_of: Stamp) -> str:
    """Read again where size or time of a file changed: every question asks for the same images."""
    return content_digest(path)
