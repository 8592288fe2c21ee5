"""What is wrong with a table of settings or a header, in our words instead of pydantic's."""

import difflib
import re
from typing import Final

from pydantic import AfterValidator, ValidationError
from pydantic_core import PydanticCustomError


def spelt(pattern: str, wanted: str) -> AfterValidator:
    """Text that matches `pattern` as a whole; a refusal says `wanted` in its place.

    Example:
        >>> from typing import Annotated
        >>> from pydantic import TypeAdapter
        >>> TypeAdapter(Annotated[str, spelt("[a-z]+", "small letters")]).validate_python("abc")
        'abc'
    """

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise PydanticCustomError("spelt", "text should be {wanted}", {"wanted": wanted})
        return text

    return AfterValidator(check)


_WANTED: Final = {
    "spelt": "{wanted}",
    "string_pattern_mismatch": "text like {pattern}",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a length of at least {min_length}",
    "too_long": "a length of at most {max_length}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "finite_number": "a finite number",
}
"""Kind of fault, as pydantic calls it → what was expected."""

_WANTED_TYPES: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "dict": "a table",
    "model": "a table",
    "path": "a path",
}
"""The same of faults of type, by the first word."""


def told_fault(failure: ValidationError, keys: list[str]) -> tuple[str, str | None]:
    """What is wrong first, and the nearest known value, or of `keys` where one is unknown, as a hint.

    Example:
        >>> from fedmed_edge.recipe import Intensity
        >>> try:
        ...     Intensity(rule="rnage")
        ... except ValidationError as failure:
        ...     told_fault(failure, [])
        ('`rule` has rnage, expected range, percentile or zscore', 'did you mean `range`?')
    """
    fault = failure.errors(include_url=False)[0]
    kind, name, said = fault["type"], ".".join(str(part) for part in fault["loc"]), fault.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key `{name}`", _nearest(str(fault["loc"][-1]), keys)
    if kind == "missing":
        return f"`{name}` is missing", None
    if kind == "value_error":
        own, _, rest = fault["msg"].removeprefix("Value error, ").partition(": ")
        if own.isidentifier() and rest.startswith("has "):
            return f"`{name if name.endswith(own) else f'{name}.{own}'.removeprefix('.')}` {rest}", None
        return ": ".join(filter(None, [f"`{name}`" if name else "", own, rest])), None
    wanted = _WANTED.get(kind) or _WANTED_TYPES.get(kind.partition("_")[0])
    if wanted is None:
        return f"`{name}`: {fault['msg']}", None
    hint = None
    if kind == "literal_error":
        hint = _nearest(_shown(fault["input"]), re.findall(r"'([^']+)'", said["expected"]), cutoff=0.7)
        said = {"expected": said["expected"].replace("'", "")}
    counted = kind in ("too_short", "too_long")
    got = f"a length of {said['actual_length']}" if counted else _shown(fault["input"])
    return f"`{name}` has {got}, expected {wanted.format(**said)}", hint


def _nearest(word: str, known: list[str], *, cutoff: float = 0.0) -> str | None:
    found = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f"did you mean `{found[0]}`?" if found else None


def _shown(value: object) -> str:
    """A value for a message: short, and without what a terminal would obey."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = text if text.strip() and text.isprintable() else repr(text)
    return text if len(text) <= 64 else f"{text[:63]}…"
