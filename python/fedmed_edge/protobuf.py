"""Protocol Buffers as bytes: the fields of a message, where the package that knows them is not installed.

Source: Protocol Buffers encoding.
"""

from collections.abc import Iterator
from typing import Final

__all__ = [
    "Fields",
    "Malformed",
    "Value",
    "as_bytes",
    "field",
    "fields_of",
    "message",
    "packed",
    "spans",
    "text",
    "walk",
]

_FIELD_CAP: Final = 1 << 17

Value = int | memoryview
Fields = dict[int, list[Value]]


class Malformed(Exception):
    """The bytes are no protobuf message."""


def fields_of(content: memoryview) -> Fields:
    """The fields of a message by number: varints as int, all else as the bytes that they are.

    Raises:
        Malformed: It is none, or has more fields than any of ours.

    Example:
        >>> fields_of(memoryview(field(1, 7) + field(1, 8)))
        {1: [7, 8]}
    """
    fields: Fields = {}
    for count, (number, value) in enumerate(walk(content)):
        if count >= _FIELD_CAP:
            raise Malformed
        fields.setdefault(number, []).append(value)
    return fields


def walk(content: memoryview) -> Iterator[tuple[int, Value]]:
    """Number and value of every field, as they stand.

    Raises:
        Malformed: The bytes end within a field.
    """
    return ((number, value) for number, value, _ in spans(content))


def spans(content: memoryview) -> Iterator[tuple[int, Value, memoryview]]:
    """Number and value of every field, and all its bytes: what is to be written as it stands is taken so.

    Raises:
        Malformed: As `walk`.

    Example:
        >>> fixed = bytes.fromhex("0d0000803f")
        >>> [(number, whole == fixed) for number, _, whole in spans(memoryview(fixed))]
        [(1, True)]
    """
    place, end = 0, len(content)
    while place < end:
        start = place
        tag, place = _varint(content, place)
        number, wire = tag >> 3, tag & 7
        value: Value
        if wire == 0:
            value, place = _varint(content, place)
        else:
            if wire == 2:
                length, place = _varint(content, place)
            else:
                length = {1: 8, 5: 4}.get(wire, end + 1)  # groups are of another age
            if length > end - place:
                raise Malformed
            value, place = content[place : place + length], place + length
        yield number, value, content[start:place]


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise Malformed
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise Malformed


def packed(content: memoryview) -> list[int]:
    """Varints one behind another.

    Raises:
        Malformed: The last one is cut off.
    """
    values, place = [], 0
    while place < len(content):
        value, place = _varint(content, place)
        values.append(value)
    return values


def message(fields: Fields, number: int) -> Fields:
    """The one message in a field: a reader would merge two, and half of it would have been checked.

    Raises:
        Malformed: There is none, or more than one.
    """
    values = fields.get(number, [])
    if len(values) != 1:
        raise Malformed
    return fields_of(as_bytes(values[0]))


def as_bytes(value: Value) -> memoryview:
    """The bytes of a field.

    Raises:
        Malformed: It is a number.
    """
    if isinstance(value, int):
        raise Malformed
    return value


def text(value: Value) -> str:
    """A name as it may stand in a message to people: at most 64 bytes of it.

    Raises:
        Malformed: It is a number.
    """
    name = bytes(as_bytes(value)[:64]).decode("utf-8", "replace")
    return name if name.isprintable() else ascii(name)


def field(number: int, value: int | bytes | memoryview) -> bytes:
    """A field of bytes, or of a number that is no fixed-width one, as it is written.

    Example:
        >>> field(1, b"abc").hex(), field(2, 300).hex()
        ('0a03616263', '10ac02')
    """
    if isinstance(value, int):
        return _written(number << 3) + _written(value)
    return _written(number << 3 | 2) + _written(len(value)) + bytes(value)


def _written(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
