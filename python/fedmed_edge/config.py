"""Settings of one site or one server: the file `fedmed.toml`, the environment, the flags of a command.

Precedence: flag > `FEDMED_*` > file > default. Keys of a table are joined by `_` in the environment:
`FEDMED_POLICY_MIN_COHORT=20`.
"""

import difflib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field, model_validator

from fedmed_edge.atomic import write_atomic
from fedmed_edge.errors import InputError
from fedmed_edge.listening import Listen
from fedmed_edge.recipe import Frozen, Name, parse_settings, read_toml, toml_lines
from fedmed_edge.validation import spelt

FILE_NAME: Final = "fedmed.toml"
PREFIX: Final = "FEDMED_"

Device = Literal["auto", "cpu", "cuda", "tensorrt"]
Part = Literal["classes", "unlabelled", "shifts", "images", "channels", "style", "calibration", "weights"]
"""Parts of a contribution, which a site's policy may allow to leave one by one."""

PARTS: Final[tuple[Part, ...]] = get_args(Part)
USUAL_PARTS: Final[tuple[Part, ...]] = tuple(part for part in PARTS if part != "style")
"""Those that leave by default: a style of few patients says who they are (SECURITY.md), and only a recipe's
`amplitude` asks for it."""

Config = TypeVar("Config", "SiteConfig", "ServerConfig")

log = logging.getLogger(__name__)


PATIENTS_A_COLUMN: Final = 3
"""Patients that a Gram needs for each of its columns: with fewer, over 1 % of those in it are found where
0.1 % of others are taken for them (SECURITY.md)."""


class Policy(Frozen):
    """What a site lets out.

    Attributes:
        min_cohort: Patients that every class and fold needs before it may leave.
        width_rule: What happens where a Gram that would leave has fewer than `PATIENTS_A_COLUMN` patients a
            column.
        parts: Parts of a contribution that may leave.
        share_style: The server may pass the site's style, which `parts` must name, on to the other sites.
        epsilon: Differential privacy of one contribution of sums, and of one training: class Grams leave with
            noise, weights where they were trained with it, and nothing else does. None adds no noise.
        delta: Of each of these and of all together; below 1/n² for n patients is wise. Losses of a
            training are composed in float64, which knows nothing of a δ near 1e-15.
        clip: Frobenius norm that one patient's scaled Grams are clipped to (`statistics.privacy`), and
            length of one patient's gradient in a step of a training with noise.
        sampling: Probability with which a patient is in a step of a training with noise.
        epochs: Length of every training with noise, whatever is asked; None leaves it to who asks.
        budget: Most ε of all contributions and trainings together, at `delta`; what would pass it does not
            leave.
        days_between: Least days between two contributions of sums under one generation.
        update_patients: Patients by which such two must differ, where they differ at all; None is
            `min_cohort`.
    """

    min_cohort: Annotated[int, Field(ge=1, le=1 << 20)] = 10
    width_rule: Literal["warn", "refuse", "off"] = "warn"
    parts: tuple[Part, ...] = USUAL_PARTS
    share_style: bool = False
    epsilon: Annotated[float, Field(gt=0, le=100)] | None = None
    delta: Annotated[float, Field(ge=1e-12, lt=0.1)] = 1e-5
    clip: Annotated[float, Field(gt=0, le=1000)] = 1.0
    sampling: Annotated[float, Field(ge=0.001, le=0.5)] = 0.1
    epochs: Annotated[float, Field(gt=0, le=1000)] | None = None
    budget: Annotated[float, Field(gt=0, le=1000)] = 8.0
    days_between: Annotated[float, Field(ge=0, le=3660)] = 0.0
    update_patients: Annotated[int, Field(ge=1, le=1 << 20)] | None = None

    @property
    def least_update(self) -> int:
        """Patients of a class by which two exact contributions that can be subtracted differ, if they do."""
        return self.update_patients or self.min_cohort

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.share_style and "style" not in self.parts:
            raise ValueError("share_style: has true, expected `style` in `parts`")
        return self


Digest = Annotated[str, spelt(r"[0-9a-f]{8,64}", "8 to 64 hexadecimal digits in lower case")]
Address = Annotated[str, spelt(r"[A-Za-z0-9.-]{1,253}:[0-9]{1,5}", "HOST:PORT")]
Hours = Annotated[str, spelt(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d", "HH:MM-HH:MM")]


class SiteFederation(Frozen):
    """How a site takes part; what the server asks is done only where this allows it.

    Without any of `may_…` the site still hands over what somebody puts into its outbox, and fetches what the
    server publishes.

    Attributes:
        server: The federation server, `host:port`.
        proxy: Address of the proxy to reach it through, `host:port`.
        may_contribute: The server may ask for statistics.
        may_train: The server may ask for local training, whose weights are contributed.
        may_validate: The server may ask how a model does on the site's test images.
        max_epochs: Most epochs of one training that is asked.
        generations: Digests, or their beginnings, of generations that may be worked with; empty allows all
            that the server signed.
        recipes: The same of recipes; empty allows the site's own recipe.
        hours: Time of day, by the site's clock, in which the above is done and files are transferred, as
            `22:00-06:00`; None is always.
        bytes_per_s: Most that is sent in a second; None is no limit.
        parts_in_flight: Parts of 4 MiB that are on their way at once.
    """

    server: Address | None = None
    proxy: Address | None = None
    may_contribute: bool = False
    may_train: bool = False
    may_validate: bool = False
    max_epochs: Annotated[float, Field(gt=0, le=1000)] = 10.0
    generations: tuple[Digest, ...] = ()
    recipes: tuple[Digest, ...] = ()
    hours: Hours | None = None
    bytes_per_s: Annotated[int, Field(ge=1024)] | None = None
    parts_in_flight: Annotated[int, Field(ge=1, le=16)] = 3


class ServerFederation(Frozen):
    """How the server meets its sites.

    Attributes:
        host, port: Where sites reach it.
        collect_s: A site that is online is asked for news at least so often, in seconds.
        sync_s: Longest that one sync with a site may take.
        at_once: Sites that are met at once.
        quorum: Least number of sites whose answer a round or a validation needs.
        deadline_s: A round goes on without those who have not answered by then, once there is a quorum.
    """

    host: Annotated[str, spelt(r"[A-Za-z0-9.-]{1,253}", "a host's name or address")] = "localhost"
    port: Annotated[int, Field(ge=0, le=65535)] = 8002
    collect_s: Annotated[float, Field(gt=0, le=86400)] = 300.0
    sync_s: Annotated[float, Field(gt=0, le=86400)] = 1800.0
    at_once: Annotated[int, Field(ge=1, le=64)] = 4
    quorum: Annotated[int, Field(ge=1, le=10_000)] = 2
    deadline_s: Annotated[float, Field(gt=0, le=31 * 86400)] = 93_600.0


class SiteConfig(Frozen):
    """Settings of one hospital; relative paths of the file are relative to the file's folder.

    Attributes:
        site: Name that the site is enrolled under.
        data: Dataset folder.
        recipe: Recipe file.
        generation: Generation file.
        key: The site's private key.
        server_key: The server's public key, which models must be signed with.
        device: Where networks run.
        threads: Processor threads; None takes all.

    Example:
        >>> SiteConfig(site="alpha").policy.min_cohort
        10
    """

    site: Name
    data: Path = Path("data")
    recipe: Path = Path("recipe.toml")
    generation: Path = Path("generation.safetensors")
    key: Path = Path("site.key")
    server_key: Path | None = None
    device: Device = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    policy: Policy = Policy()
    listen: Listen = Listen()
    federation: SiteFederation = SiteFederation()


class ServerConfig(Frozen):
    """Settings of the server; relative paths of the file are relative to the file's folder.

    Attributes:
        store: Folder of the store.
        index: URL of the PostgreSQL database that keeps the store's index; None keeps it in a file there.
        objects: fsspec URL, such as `s3://bucket/name`, of the place that keeps the store's files; None keeps
            them there.
        store_key: File of the key that the store's files are encrypted with; None keeps them plain.
        key: The server's private key, which models are signed with.
    """

    store: Path = Path("store")
    index: str | None = None
    objects: str | None = None
    store_key: Path | None = None
    key: Path = Path("server.key")
    federation: ServerFederation = ServerFederation()


def read_config(
    model: type[Config],
    path: Path | None,
    *,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Settings from flags, environment, file and defaults, in this order.

    Args:
        model: `SiteConfig` or `ServerConfig`.
        path: `fedmed.toml`, or the folder that holds it; None reads no file.
        flags: Values by key (`policy.min_cohort` for a table's key); None values count as not given.
        environment: Default `os.environ`. Names that belong to no key are left alone; of one that is nearly a
            key's a warning says so.

    Raises:
        InputError: The file is missing or no TOML, or a key or value is not one; names where it came from.

    Example:
        >>> flags, environment = {"site": "alpha"}, {"FEDMED_THREADS": "2"}
        >>> read_config(SiteConfig, None, flags=flags, environment=environment).threads
        2
    """
    values: dict[str, Any] = {}
    where = FILE_NAME
    if path is not None:
        file = path / FILE_NAME if path.is_dir() else path
        where = str(file)
        values = read_toml(file)
        _resolve(model, values, file.parent)
    environment = os.environ if environment is None else environment
    _warn_of_misspelt(environment)
    given: list[tuple[str, tuple[str, ...], object]] = [
        (name, key, _from_text(model, key, environment[name]))
        for name, key in variables(model).items()
        if environment.get(name)
    ]
    for dotted, value in (flags or {}).items():
        if value is not None:
            key = tuple(dotted.split("."))
            given.append(("--" + key[-1].replace("_", "-"), key, value))
    for _, key, value in given:
        _put(values, key, value)
    try:
        return parse_settings(model, values, where)
    except InputError as error:
        raise _fault(model, values, given, where) or error from None


def _warn_of_misspelt(environment: Mapping[str, str]) -> None:
    known = [*variables(SiteConfig), *variables(ServerConfig)]
    for name in sorted(set(environment) - set(known)):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.9) if name.startswith(PREFIX) else []
        if near:
            log.warning("%s: is no setting and does nothing; did you mean %s?", name, near[0])


def variables(model: type[BaseModel]) -> dict[str, tuple[str, ...]]:
    """Key of every setting by the variable of the environment that sets it.

    Example:
        >>> variables(SiteConfig)["FEDMED_POLICY_MIN_COHORT"]
        ('policy', 'min_cohort')
    """
    return {PREFIX + "_".join(key).upper(): key for key in _keys(model)}


def absolute_paths(model: type[BaseModel], environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of the environment that name a path, as seen from this folder: for processes of another.

    Example:
        >>> absolute_paths(SiteConfig, {"FEDMED_DATA": "/data", "FEDMED_THREADS": "2"})
        {'FEDMED_DATA': '/data'}
    """
    environment = os.environ if environment is None else environment
    return {
        name: str(Path(environment[name]).absolute())
        for name, key in variables(model).items()
        if environment.get(name) and _names_path(model, key)
    }


def _names_path(model: type[BaseModel], key: tuple[str, ...]) -> bool:
    annotation = model.model_fields[key[0]].annotation
    if len(key) > 1 and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _names_path(annotation, key[1:])
    return Path in (annotation, *get_args(annotation))


def _fault(
    model: type[Frozen], values: dict[str, Any], given: list[tuple[str, tuple[str, ...], object]], where: str
) -> InputError | None:
    """What is wrong beside missing keys, named after the variable or flag that makes it alone."""
    needed = {name: "unnamed" for name, field in model.model_fields.items() if field.is_required()}

    def fault(values: dict[str, Any], where: str) -> InputError | None:
        try:
            parse_settings(model, {**needed, **values}, where)
        except InputError as error:
            return error
        return None

    found = fault(values, where)
    for name, key, value in given if found else ():
        alone: dict[str, Any] = {}
        _put(alone, key, value)
        own = fault(alone, name)
        if own and str(own).removeprefix(name) == str(found).removeprefix(where):
            return own
    return found


def _resolve(model: type[BaseModel], values: dict[str, Any], folder: Path) -> None:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            if isinstance(values.setdefault(name, {}), dict):
                _resolve(field.annotation, values[name], folder)
        elif Path in (field.annotation, *get_args(field.annotation)):
            value = values.get(name, field.default)
            # what is no path is refused with the rest
            values[name] = folder / value if isinstance(value, str | Path) else value


def _keys(model: type[BaseModel]) -> list[tuple[str, ...]]:
    keys: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += [(name, *rest) for rest in _keys(inner)]
        else:
            keys.append((name,))
    return keys


def _from_text(model: type[BaseModel], key: tuple[str, ...], text: str) -> str | list[str] | dict[str, str]:
    """Value of an environment variable; a list is written with commas, a table too: `KEY=VALUE,KEY=VALUE`."""
    annotation = model.model_fields[key[0]].annotation
    if len(key) > 1 and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _from_text(annotation, key[1:], text)
    items = [item.strip() for item in text.split(",")]
    if get_origin(annotation) is dict:
        return {name.strip(): value.strip() for name, _, value in (item.partition("=") for item in items)}
    return items if get_origin(annotation) is tuple else text


def _put(values: dict[str, Any], key: tuple[str, ...], value: object) -> None:
    for name in key[:-1]:
        if not isinstance(values.setdefault(name, {}), dict):
            return  # no table: refused with the rest
        values = values[name]
    values[key[-1]] = value


def write_config(path: Path, config: SiteConfig | ServerConfig) -> None:
    """Write settings as TOML, for `init`.

    Keys without a value are left out, and so is a table that was not changed, but for the policy: that is to
    be seen.

    Raises:
        InputError: A file is there already, or it cannot be written.
    """
    if path.exists():
        raise InputError(f"{path}: is there already", hint="edit it, or choose another folder")
    fields = type(config).model_fields.items()
    unchanged = {
        name
        for name, field in fields
        if isinstance(field.default, BaseModel) and getattr(config, name) == field.default
    }
    values = config.model_dump(mode="json", exclude_none=True, exclude=unchanged - {"policy"})
    write_atomic(path, ("\n".join(toml_lines(values)) + "\n").encode())
