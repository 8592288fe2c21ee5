"""Requests that a hospital's certificate lets in and that mean harm, and servers that do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed_edge.errors import InputError, TrustError
from fedmed_edge.federation import server_side, wire
from fedmed_edge.federation.loopback import Loopback
from fedmed_edge.federation.messages import FILE_CAP, Hello, Welcome, parse_fields
from fedmed_edge.federation.releases import Releases
from fedmed_edge.federation.server_side import serve
from fedmed_edge.federation.wire import Reply, Request
from fedmed_edge.signing import generate_key

DIGEST = "ab" * 32


def refused(federation: Any, op: str, fields: Any, data: bytes = b"", site: str = "alpha") -> str:
    reply = serve(federation.store, federation.folder, site, Request(op, fields, data))
    assert "error" in reply.fields, reply.fields
    return str(reply.fields["error"])


def everything(federation: Any) -> set[str]:
    return {str(path) for path in federation.folder.parent.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("op", "fields", "why"),
    [
        ("offer", {"digest": "../../../etc/passwd", "bytes": 1}, "`digest`: String should match"),
        ("offer", {"digest": "A" * 64, "bytes": 1}, "`digest`: String should match"),
        ("offer", {"digest": DIGEST + "\n", "bytes": 1}, "`digest`: String should match"),
        ("offer", {"digest": DIGEST, "bytes": FILE_CAP + 1}, "`bytes`: Input should be less than or equal"),
        ("offer", {"digest": DIGEST, "bytes": 0}, "`bytes`: Input should be greater than or equal to 1"),
        ("offer", {"digest": DIGEST, "bytes": True}, "`bytes`: Input should be a valid integer"),
        ("offer", {"digest": DIGEST}, "`bytes`: Field required"),
        ("put", {"digest": DIGEST, "part": -1}, "`part`: Input should be greater than or equal to 0"),
        ("put", {"digest": DIGEST, "part": 1 << 40}, "`part`: Input should be less than"),
        ("put", {"digest": DIGEST, "part": 0}, "of a file that was not offered"),
        ("commit", {"digest": DIGEST}, "of a file that was not offered"),
        ("get", {"digest": DIGEST, "part": 0}, "no such object for this site"),
        ("report", {"request": "0" * 32, "state": "done"}, "of a request that this site was not asked"),
        ("report", {"request": "0" * 32, "state": "maybe"}, "`state`: Input should be"),
        ("hello", {"protocol": 99, "version": "1"}, "`protocol` has 99, expected 1"),
        ("hello", {"protocol": 1, "version": "1; rm -rf"}, "`version`: String should match"),
        ("hello", {"protocol": 1, "version": "1", "has": {"../x": "model"}}, "`has`: String should match"),
        ("shell", {}, "unknown operation"),
    ],
)
def test_a_request_beyond_what_it_may_say_is_refused(
    federation: Any, op: str, fields: dict[str, Any], why: str
) -> None:
    before = everything(federation)
    said = refused(federation, op, fields)
    assert why in said
    assert "/" not in said
    assert everything(federation) - before <= {str(federation.folder / "inbox" / "alpha" / "lock")}


@given(
    op=st.sampled_from(wire.OPS),
    fields=st.dictionaries(
        st.sampled_from(["digest", "bytes", "part", "request", "state", "protocol", "version", "has", "why"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80) | st.just(DIGEST),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
            ),
            max_leaves=5,
        ),
    ),
    data=st.binary(max_size=20),
)
@settings(max_examples=150)
def test_whatever_is_asked_is_answered(shared: Any, op: str, fields: dict[str, Any], data: bytes) -> None:
    reply = serve(shared.store, shared.folder, "alpha", Request(op, fields, data))
    assert "server: failed" not in str(reply.fields)
    json.dumps(dict(reply.fields))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    make: Callable[..., Any] = request.getfixturevalue("make_federation")
    return make(tmp_path_factory.mktemp("hostile"))


def test_a_site_is_who_its_certificate_says(federation: Any) -> None:
    parcel = federation.hospitals["alpha"].outbox.add(federation.hospitals["beta"].contribution())
    result = federation.sync("alpha")
    (why,) = result.refused.values()
    assert "`site` has beta, expected alpha, whose certificate it came with" in why
    assert federation.held() == []
    assert federation.hospitals["alpha"].outbox.all()[0].digest == parcel.digest
    last = federation.store.ledger()[-1]
    assert (last.kind, last.site) == ("refused", "alpha")


def test_the_header_may_not_name_another_site_than_the_signing_key(federation: Any) -> None:
    alpha = federation.hospitals["alpha"]
    alpha.key = federation.hospitals["beta"].key
    alpha.put()
    (why,) = federation.sync("alpha").refused.values()
    assert "`site` has alpha, expected beta, which its key is enrolled under" in why
    assert federation.held() == []


def test_an_unknown_and_a_revoked_site_get_nothing(federation: Any) -> None:
    hello = {"protocol": 1, "version": "1"}
    assert refused(federation, "hello", hello, site="mallory") == "site: is not enrolled"
    assert refused(federation, "hello", hello, site="../alpha") == "site: is not enrolled"
    federation.store.revoke_site("alpha")
    assert refused(federation, "hello", hello) == "site `alpha`: was revoked"
    with pytest.raises(InputError, match="server: site `alpha`: was revoked"):
        federation.sync("alpha")


def test_an_object_for_one_site_is_not_given_to_another(federation: Any, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"for beta")
    offer = federation.offers.publish(path, federation.key, kind="model", sites=["beta"])
    assert (
        refused(federation, "get", {"digest": offer.digest, "part": 0}) == "get: no such object for this site"
    )
    assert federation.sync("alpha").received == []
    assert federation.sync("beta").received == [offer.digest]


def test_a_site_has_few_files_on_their_way_and_no_more_than_the_disk_bears(
    federation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(server_side.OPEN_FILES_CAP):
        serve(
            federation.store,
            federation.folder,
            "alpha",
            Request("offer", {"digest": f"{index:064x}", "bytes": 5}),
        )
    assert refused(federation, "offer", {"digest": DIGEST, "bytes": 5}) == "server: cannot take it now"
    monkeypatch.setattr(server_side, "ROOM_BYTES", 1 << 60)
    assert (
        refused(federation, "offer", {"digest": DIGEST, "bytes": 5}, site="beta")
        == "server: cannot take it now"
    )


def test_a_file_that_is_not_what_its_digest_says_is_thrown_away(federation: Any) -> None:
    ask = federation.channel("alpha").ask
    ask("offer", {"digest": DIGEST, "bytes": 3})
    ask("put", {"digest": DIGEST, "part": 0}, b"abc")
    assert "not what its digest says" in refused(federation, "commit", {"digest": DIGEST})
    assert not list((federation.folder / "inbox" / "alpha").glob(f"{DIGEST}*"))


@pytest.mark.parametrize("data", [b"", b"ab", b"abcd"])
def test_a_part_of_another_size_is_refused(federation: Any, data: bytes) -> None:
    federation.channel("alpha").ask("offer", {"digest": DIGEST, "bytes": 3})
    assert f"has {len(data)} bytes, expected 3" in refused(
        federation, "put", {"digest": DIGEST, "part": 0}, data
    )
    assert "expected less than 1" in refused(federation, "put", {"digest": DIGEST, "part": 1}, data)


# --- a server that means harm ----------------------------------------------------------------------------


class Lying:
    """A server whose replies are changed on their way."""

    def __init__(self, federation: Any, change: Callable[[str, dict[str, Any], bytes], Reply]) -> None:
        self._inner, self._change = Loopback(federation.store, federation.folder, "alpha"), change

    def ask(self, op: str, fields: Any, data: bytes = b"") -> Reply:
        reply = self._inner.ask(op, fields, data)
        return self._change(op, dict(reply.fields), reply.data)


def publish(federation: Any, tmp_path: Path) -> Any:
    path = tmp_path / "object"
    path.write_bytes(b"content")
    return federation.offers.publish(path, federation.key, kind="model")


def test_an_object_of_another_signer_is_not_fetched(federation: Any, tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(b"content")
    offer = federation.offers.publish(path, generate_key(), kind="model")
    result = federation.sync("alpha")
    assert (result.received, result.untrusted) == ([], [offer.digest])
    assert not list((federation.hospitals["alpha"].folder / "inbox").glob("*"))


def test_an_object_that_was_changed_on_its_way_does_not_count(federation: Any, tmp_path: Path) -> None:
    offer = publish(federation, tmp_path)
    lying = Lying(federation, lambda op, fields, data: Reply(fields, data.upper() if op == "get" else data))
    assert federation.sync("alpha", lying).received == []
    assert federation.sync("alpha").received == [offer.digest]


def test_nothing_is_trusted_without_a_key(federation: Any, tmp_path: Path) -> None:
    publish(federation, tmp_path)
    alpha = federation.hospitals["alpha"]
    alpha.config = alpha.config.model_copy(update={"server_key": None})
    with pytest.raises(TrustError, match="no key to check its signatures against"):
        federation.sync("alpha")


@pytest.mark.parametrize(
    "welcome",
    [{}, {"offers": [{"digest": "../x"}]}, {"protocol": 1, "version": "\x1b[2J", "clock": 0, "sequence": 1}],
)
def test_a_reply_that_is_none_is_refused(federation: Any, welcome: dict[str, Any]) -> None:
    lying = Lying(federation, lambda op, fields, data: Reply(welcome, data))
    with pytest.raises(InputError, match=r"^server: `"):
        federation.sync("alpha", lying)


def test_a_server_cannot_use_up_the_numbers_of_a_site(federation: Any) -> None:
    alpha = federation.hospitals["alpha"]
    last = Lying(
        federation,
        lambda op, fields, data: Reply({"protocol": 1, "version": "9", "clock": 0, "sequence": 1 << 53}),
    )
    with pytest.raises(InputError, match="server: `sequence` has 9007199254740992, expected at most 10001"):
        federation.sync("alpha", last)
    assert Releases(alpha.folder).sequence == 0
    alpha.put()
    assert len(federation.sync("alpha").sent) == 1


def test_what_a_server_says_reaches_the_log_without_control_characters(federation: Any) -> None:
    lying = Lying(federation, lambda op, fields, data: Reply({"error": "no\x1b[2J" + "!" * 9999}))
    with pytest.raises(InputError) as failure:
        federation.sync("alpha", lying)
    assert str(failure.value).startswith("server: no[2J!!!")
    assert len(str(failure.value)) < 400


def test_fields_that_a_later_release_says_are_passed_over() -> None:
    said = {"protocol": 1, "version": "9", "clock": 0.0, "sequence": 1, "mood": "good"}
    assert parse_fields(Welcome, said, "server").sequence == 1


def test_kinds_that_a_later_release_knows_are_passed_over_one_by_one() -> None:
    offered = {"kind": "model", "digest": "a" * 64, "bytes": 1, "signature": ""}
    asked = {"id": "0" * 32, "kind": "train", "recipe": "b" * 64, "generation": "c" * 64, "deadline": 0}
    said = {"protocol": 1, "version": "9", "clock": 0, "sequence": 1}
    offers, requests = [offered, offered | {"kind": "atlas"}], [asked | {"kind": "sing"}, asked]
    welcome = parse_fields(Welcome, said | {"offers": offers, "requests": requests}, "server")
    assert [one.kind for one in welcome.offers] == ["model"]
    assert [one.kind for one in welcome.requests] == ["train"]
    has = {"a" * 64: "model", "b" * 64: "atlas"}
    assert parse_fields(Hello, {"protocol": 1, "version": "9", "has": has}, "hello").has == {
        "a" * 64: "model"
    }
    with pytest.raises(InputError, match="server: `offers`: Field required"):
        parse_fields(Welcome, said | {"offers": [{"kind": "model"}]}, "server")
    with pytest.raises(InputError, match="server: `offers`: Input should be a valid tuple"):
        parse_fields(Welcome, said | {"offers": "model"}, "server")


def test_the_folders_are_the_servers_alone(federation: Any) -> None:
    federation.hospitals["alpha"].put()
    federation.sync("alpha")
    assert (federation.hospitals["alpha"].folder / "egress.jsonl").stat().st_mode & 0o077 == 0
