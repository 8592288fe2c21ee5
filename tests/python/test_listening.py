"""The table [listen]: what it takes and what it refuses."""

from pathlib import Path

import pytest

from fedmed_edge.config import SiteConfig, read_config, write_config
from fedmed_edge.errors import InputError
from fedmed_edge.listening import Listen, Peer, dicom_address


def read(folder: Path, text: str, **environment: str) -> Listen:
    (folder / "fedmed.toml").write_text(f'site = "alpha"\n{text}')
    return read_config(SiteConfig, folder, environment=environment).listen


def test_nothing_is_reached_from_outside_and_nothing_leaves_unless_told(tmp_path: Path) -> None:
    listen = read(tmp_path, "")
    assert (str(listen.bind), listen.send, listen.destination) == ("127.0.0.1", False, ())
    assert [peer.admits("ANY", "127.0.0.1") for peer in listen.peers] == [True]
    assert not any(peer.admits("ANY", "10.1.2.3") for peer in listen.peers)


def test_paths_of_its_tables_are_beside_the_file(tmp_path: Path) -> None:
    tls = "[listen.tls]\ncertificate = 'node.pem'\nkey = '/etc/node.key'"
    listen = read(tmp_path, f"[listen]\nmodel = 'a.onnx'\n{tls}")
    assert listen.folder == tmp_path / "listen"
    assert listen.model == tmp_path / "a.onnx"
    assert (listen.tls.certificate, listen.tls.key) == (tmp_path / "node.pem", Path("/etc/node.key"))
    assert listen.tls.authority is None


def test_the_environment_reaches_its_tables(tmp_path: Path) -> None:
    listen = read(tmp_path, "", FEDMED_LISTEN_PORT="104", FEDMED_LISTEN_DICOMWEB_POLL_S="5")
    assert (listen.port, listen.dicomweb.poll_s) == (104, 5.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aet = 'SEVENTEEN LETTERS'", r"`listen\.aet` has SEVENTEEN LETTERS, expected 1 to 16"),
        ("aet = ' '", r"`listen\.aet` has ' ', expected 1 to 16"),
        ("bind = 'here'", r"`listen\.bind"),
        ("allow = ['CT1']", r"`listen\.allow` has 'CT1', expected AET@ADDRESS"),
        (
            "allow = ['CT1@scanner']",
            r"`listen\.allow` has 'CT1@scanner': .*'scanner' does not appear to be an IPv4",
        ),
        ("send = true", r"send: is true, expected a `destination`"),
        ("destination = 'dicoms://PACS@10.1.2.3:104'", r"dicoms:// needs `certificate` and `key`"),
        ("[listen.tls]\nkey = 'a'", r"`listen\.tls`: certificate and key: expected both or none"),
        ("[listen.dicomweb]\nurl = 'pacs'", r"`listen\.dicomweb\.url`: expected http:// or https://"),
        ("[listen.dicomweb]\nurl = 'https://me:word@pacs'", "with no name or password in it"),
        ("settle = 3", r"unknown key `listen\.settle`"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, f"[listen]\n{text}")


@pytest.mark.parametrize(
    ("entry", "aet", "address", "admitted"),
    [
        ("CT1@10.1.2.3", "CT1", "10.1.2.3", True),
        ("CT1@10.1.2.3", "CT1 ", "10.1.2.3", True),
        ("CT1@10.1.2.3", "CT2", "10.1.2.3", False),
        ("CT1@10.1.2.3", None, "10.1.2.3", True),
        ("CT1@10.1.2.3", None, "10.1.2.4", False),
        ("*@10.1.0.0/16", "ANY", "10.1.255.1", True),
        ("CT1@*", "CT1", "192.168.0.1", True),
        ("*@10.1.2.3", "CT1", "::ffff:10.1.2.3", True),
        ("*@::1", "CT1", "::1", True),
        ("*@10.1.0.0/16", "CT1", "::1", False),
    ],
)
def test_who_may_come(entry: str, aet: str | None, address: str, admitted: bool) -> None:
    assert Peer.parse(entry).admits(aet, address) is admitted


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("PACS@10.1.2.3:104", ("PACS", "10.1.2.3", 104)),
        ("dicoms://MY PACS@pacs.hospital:2762", ("MY PACS", "pacs.hospital", 2762)),
        ("PACS@[::1]:104", ("PACS", "::1", 104)),
        ("https://pacs.hospital/dicom-web", None),
        ("results", None),
    ],
)
def test_where_results_go(text: str, address: tuple[str, str, int] | None) -> None:
    assert dicom_address(text) == address


@pytest.mark.parametrize("text", ["PACS", "ftp://x", "PACS@host", "PACS@host:99999", "results", "./results"])
def test_a_destination_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=rf"destination: has '{text}', expected AET@HOST:PORT"):
        Listen(destination=text)


def test_what_was_changed_is_written_and_read(tmp_path: Path) -> None:
    listen = Listen(
        port=104, allow=("CT1@10.1.2.3",), dicomweb={"url": "http://a", "query": {"Modality": "CT"}}
    )
    write_config(tmp_path / "fedmed.toml", SiteConfig(site="alpha", listen=listen))
    back = read_config(SiteConfig, tmp_path, environment={}).listen
    assert (back.port, back.allow, back.dicomweb) == (listen.port, listen.allow, listen.dicomweb)
    write_config(tmp_path / "plain.toml", SiteConfig(site="alpha"))
    assert "listen" not in (tmp_path / "plain.toml").read_text()
