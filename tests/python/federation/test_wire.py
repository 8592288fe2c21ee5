"""Messages from anybody: what is not one is refused, and refusals tell nothing."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed_edge.errors import InputError
from fedmed_edge.federation import wire
from fedmed_edge.federation.wire import Reply, Request, decode_reply, decode_request, encode


@given(
    op=st.sampled_from(wire.OPS),
    fields=st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=9), st.integers()
    ),
    data=st.binary(max_size=99),
)
def test_messages_come_back_from_their_bytes(op: str, fields: dict[str, int], data: bytes) -> None:
    request = decode_request(encode(Request(op, fields, data)))
    assert (request.op, dict(request.fields), request.data) == (op, fields, data)
    reply = decode_reply(encode(Reply(fields, data)))
    assert (dict(reply.fields), reply.data) == (fields, data)


def message(header: Any, data: bytes = b"", *, length: int | None = None, magic: bytes = b"FMW1") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return magic + (len(text) if length is None else length).to_bytes(4, "big") + text + data


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a message of this protocol"),
        (message({}, magic=b"FMW9"), "not a message of this protocol"),
        (message(b"", length=wire.HEADER_CAP + 1), "header has 262145 bytes, expected at most 262144"),
        (message(b"{}", length=9), "cut off: header has 2 bytes, expected 9"),
        (
            message({"op": "put", "fields": {}}, bytes(wire.PART_BYTES + 1)),
            "data has 4194305 bytes, expected at",
        ),
        (bytes(wire.MESSAGE_CAP + 1), f"has {wire.MESSAGE_CAP + 1} bytes, expected at most"),
        (message(b"[" * 9999), "header is no JSON, or nested too deep"),
        (message(b'{"a":1,"a":2}'), "has the key `a` twice"),
        (message({"op": "put"}), "header expected fields and op alone"),
        (message({"op": "put", "fields": []}), "header expected fields and op alone"),
        (message({"op": "put", "fields": {}, "site": "b"}), "header expected fields and op alone"),
        (
            message({"op": "shell", "fields": {}}),
            "`op` has 'shell', expected one of hello, offer",
        ),
        (message({"op": ["put"], "fields": {}}), "`op` has"),
        (message({"op": {}, "fields": {}}), "`op` has"),
    ],
)
def test_what_is_no_request_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        decode_request(content)


@given(st.binary(max_size=200))
def test_noise_is_refused_and_nothing_else_happens(content: bytes) -> None:
    for prefix in (b"", b"FMW1", b"FMW1\0\0\0\x02{}"):
        with pytest.raises(InputError):
            decode_request(prefix + content)


def test_a_message_beyond_its_caps_is_not_made() -> None:
    with pytest.raises(InputError, match="data has 4194305 bytes"):
        encode(Reply({}, bytes(wire.PART_BYTES + 1)))
    with pytest.raises(InputError, match=r"header has .* bytes, expected at most 262144"):
        encode(Reply({"a": "b" * wire.HEADER_CAP}))
