"""What each operation may say, either way: checked before anything is done with it.

A server reads requests from anybody and a site replies from anybody, so every name, digest and number has a
pattern or a bound. Keys, kinds of object and kinds of request that this release does not know are passed
over: a later one may say more.
"""

from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fedmed_edge.errors import InputError
from fedmed_edge.federation.wire import PART_BYTES
from fedmed_edge.recipe import Name

__all__ = [
    "FILE_CAP",
    "PARTS_CAP",
    "PASSING",
    "Ask",
    "Commit",
    "Digest",
    "Fields",
    "Get",
    "Hello",
    "Id",
    "Kind",
    "Offer",
    "Offered",
    "Progress",
    "Put",
    "Report",
    "Taken",
    "Welcome",
    "Work",
    "parse_fields",
]

FILE_CAP = 1 << 30
"""Largest file that a site hands over; a contribution has at most as much."""

PARTS_CAP = 1 << 10
"""Most parts of a file, either way: 4 GiB."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Part = Annotated[int, Field(ge=0, lt=PARTS_CAP, strict=True)]
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z.+_-]{1,40}$")]
Metric = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Figure = Annotated[float, Field(allow_inf_nan=False)]
Kind = Literal["generation", "backbone", "model", "candidate", "styles"]
"""Kinds of object that a server offers; a candidate is a model that is to be validated first."""

Work = Literal["contribute", "train", "validate"]
"""Kinds of request that a server makes of a site."""

PASSING: Final = ("backbone", "candidate", "styles")
"""Kinds that nobody needs any more once they are off offer."""

Time = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
"""Seconds since 1970, UTC, by the server's clock."""


def _known(*kinds: str) -> BeforeValidator:
    """Leaves out what is of a kind that this release does not know: of entries, or of kinds by digest."""

    def fits(kind: object) -> bool:
        return not isinstance(kind, str) or kind in kinds

    def keep(said: Any) -> Any:
        if isinstance(said, dict):
            return {digest: kind for digest, kind in said.items() if fits(kind)}
        if isinstance(said, (list, tuple)):
            return [one for one in said if not isinstance(one, dict) or fits(one.get("kind"))]
        return said

    return BeforeValidator(keep)


class Fields(BaseModel):
    """Fields of one request or reply."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    op: ClassVar[str] = ""

    @property
    def values(self) -> dict[str, Any]:
        """As they travel."""
        return self.model_dump(mode="json", exclude_none=True)


class Hello(Fields):
    """A site begins: which release it runs, and which objects it has already, as what kind."""

    op: ClassVar[str] = "hello"
    protocol: Annotated[int, Field(ge=1, le=1000, strict=True)]
    version: Version
    has: Annotated[dict[Digest, Kind], Field(max_length=1024), _known(*get_args(Kind))] = {}


class Offer(Fields):
    """A site has a file for the server."""

    op: ClassVar[str] = "offer"
    digest: Digest
    bytes: Annotated[int, Field(ge=1, le=FILE_CAP, strict=True)]


class Put(Fields):
    """One part of it, which is the message's data."""

    op: ClassVar[str] = "put"
    digest: Digest
    part: Part


class Commit(Fields):
    """All parts were sent."""

    op: ClassVar[str] = "commit"
    digest: Digest


class Get(Fields):
    """One part of an object, please."""

    op: ClassVar[str] = "get"
    digest: Digest
    part: Part


class Report(Fields):
    """What became of a request.

    Attributes:
        why: Of what was not done; no path and no value of an image's header.
        contribution: Id of what was handed over for it.
        figures: Validation figures.
    """

    op: ClassVar[str] = "report"
    request: Id
    state: Literal["done", "refused", "failed"]
    why: Annotated[str, Field(max_length=300)] = ""
    contribution: Digest | None = None
    figures: Annotated[dict[Metric, Figure], Field(max_length=64)] = {}


class Offered(Fields):
    """An object that the server has for the site.

    Attributes:
        signature: Of the server's key over the object, as its `.sig` file has it.
        generation: That it belongs to, where it belongs to one.
        model: Digest of the model in an exported one, as `fedmed-server rebuild` prints it.
        others: Further task → model, where an exported one answers several.
        made: When it was offered last.
    """

    kind: Kind
    digest: Digest
    bytes: Annotated[int, Field(ge=1, le=PARTS_CAP * PART_BYTES, strict=True)]
    signature: Annotated[str, Field(max_length=1024)]
    task: Name | None = None
    generation: Digest | None = None
    model: Digest | None = None
    others: Annotated[dict[Name, Digest], Field(max_length=64)] = {}
    made: Time = 0.0

    @property
    def tasks(self) -> tuple[str, ...]:
        """That it is for."""
        return (self.task, *self.others) if self.task else ()


class Ask(Fields):
    """What the server asks of a site; the site decides.

    Attributes:
        kind: `contribute` sums under a generation; `train` from a generation (or from `object`, weights of
            the same backbone) and contribute weights; `validate` the model `object`.
        training: Whose round it is, of `train`; None from a server that does not say it yet.
        deadline: When the server goes on without the site.
    """

    id: Id
    kind: Work
    recipe: Digest
    generation: Digest
    object: Digest | None = None
    training: Id | None = None
    epochs: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    deadline: Time


class Welcome(Fields):
    """Reply to `hello`.

    Attributes:
        clock: The server's time.
        sequence: The least that the site's next contribution may have.
        made: When those that the site has and may have were offered last: the newest counts.
        withdrawn: Objects that the site has and must not use any more.
        taken_back: Objects that the site has and that are no longer published, or not for it: all of them
            every time, so that one that is not among them is published again.
        withdrawn_models: Models that nobody must use any more, as `fedmed-server rebuild` prints them.
    """

    protocol: Annotated[int, Field(ge=1, le=1000)]
    version: Version
    clock: Time
    sequence: Annotated[int, Field(ge=1, le=1 << 53)]
    offers: Annotated[tuple[Offered, ...], Field(max_length=256), _known(*get_args(Kind))] = ()
    requests: Annotated[tuple[Ask, ...], Field(max_length=256), _known(*get_args(Work))] = ()
    made: Annotated[dict[Digest, Time], Field(max_length=1024)] = {}
    withdrawn: Annotated[tuple[Digest, ...], Field(max_length=1024)] = ()
    taken_back: Annotated[tuple[Digest, ...], Field(max_length=1024)] = ()
    withdrawn_models: Annotated[tuple[Digest, ...], Field(max_length=1024)] = ()


class Progress(Fields):
    """Reply to `offer`: whether the server took the file before, and else the parts it misses."""

    taken: bool
    missing: Annotated[tuple[Part, ...], Field(max_length=PARTS_CAP)] = ()


class Taken(Fields):
    """Reply to `commit`: the contribution's id in the store."""

    id: Digest


AnyFields = TypeVar("AnyFields", bound=Fields)


def parse_fields(model: type[AnyFields], values: Any, what: str) -> AnyFields:
    """Check fields from anybody.

    Raises:
        InputError: With the first fault; the value itself is not repeated.

    Example:
        >>> parse_fields(Commit, {"digest": "../../etc"}, "commit")
        Traceback (most recent call last):
        ...
        fedmed_edge.errors.InputError: commit: `digest`: String should match pattern '^[0-9a-f]{64}$'
    """
    try:
        return model.model_validate(values)
    except ValidationError as failure:
        fault = failure.errors(include_url=False, include_input=False)[0]
        place = fault["loc"][:1]  # what lies within a field may have keys of the sender's
        shown = f"`{place[0]}`: " if place and place[0] in model.model_fields else ""
        raise InputError(f"{what}: {shown}{fault['msg']}") from None
