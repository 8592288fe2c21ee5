"""What a sender sees: bytes kept as they came, refusals that say why."""

import datetime
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pydicom
import pynetdicom
import pytest
from pydicom.data import get_testdata_files
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, _config

SiteOf = Callable[..., Any]


@pytest.fixture
def associate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Opens associations that send a file's bytes as they are."""
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    opened: list[Any] = []

    def open_one(port: int, kinds: set[tuple[str, str]], aet: str = "CT1", to: str = "FEDMED") -> Any:
        contexts = [pynetdicom.build_context(one, syntax) for one, syntax in sorted(kinds)]
        opened.append(AE(ae_title=aet).associate("127.0.0.1", port, contexts=contexts, ae_title=to))
        return opened[-1]

    yield open_one
    for association in opened:
        if association.is_established:
            association.release()


@pytest.fixture(scope="module")
def node(pacs: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A node that answers nothing, for all tests that look at what it receives."""
    with pacs.running(pacs.Site(tmp_path_factory.mktemp("node") / "site", settle_s=3600)) as site:
        yield site


@pytest.fixture
def outcomes(node: Any) -> Callable[[], dict[str, float]]:
    """What became of instances since the test began."""

    def count() -> dict[str, float]:
        lines = node.get("/metrics")[1].splitlines()
        name = "fedmed_instances_total{outcome="
        found = (line.removeprefix(name).split("} ") for line in lines if line.startswith(name))
        return {outcome.strip('"'): float(value) for outcome, value in found}

    before = count()
    return lambda: {k: v - before.get(k, 0) for k, v in count().items() if v != before.get(k, 0)}


def kind_of(path: Path) -> tuple[str, str]:
    meta = pydicom.filereader.read_file_meta_info(path)
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)


def real_files(shared_data: Path) -> dict[str, Path]:
    """Real files with the three UIDs, by SOPInstanceUID, each once."""
    found: dict[str, Path] = {}
    bundled = [Path(name) for name in get_testdata_files() if name.endswith(".dcm")]
    for path in [*sorted(shared_data.glob("dicom/**/*.dcm")), *bundled]:
        try:
            meta = pydicom.filereader.read_file_meta_info(path)
            header = pydicom.dcmread(path, stop_before_pixels=True)
            uids = [str(header[name].value) for name in ("StudyInstanceUID", "SeriesInstanceUID")]
            kind_of(path)
        except Exception:
            continue
        announced = str(meta.get("MediaStorageSOPInstanceUID", ""))
        if all(uids) and header.get("SOPInstanceUID") == announced and path.stat().st_size < 1 << 21:
            found.setdefault(str(header.SOPInstanceUID), path)
    return found


@pytest.mark.data
@pytest.mark.filterwarnings("ignore")
def test_every_class_and_syntax_is_kept_as_it_came(
    pacs: ModuleType,
    node: Any,
    shared_data: Path,
    associate: Callable[..., Any],
    outcomes: Callable[[], dict[str, float]],
) -> None:
    files = real_files(shared_data)
    kinds = sorted({kind_of(path) for path in files.values()})
    for start in range(0, len(kinds), 100):
        some = set(kinds[start : start + 100])
        association = associate(node.port, some)
        assert len(association.accepted_contexts) == len(some)
        for uid, path in files.items():
            if kind_of(path) in some:
                assert association.send_c_store(path).Status == 0x0000, path
                ((kept,),) = node.rows("SELECT path FROM instances WHERE sop_uid = ?", uid)
                assert pacs.dataset_bytes(Path(kept)) == pacs.dataset_bytes(path), path
                assert kind_of(Path(kept)) == kind_of(path)
    assert len(files) >= 60
    assert len({one for one, _ in kinds}) >= 15
    assert len({syntax for _, syntax in kinds}) >= 10
    assert not list((node.base / "incoming" / ".receiving").iterdir())
    assert outcomes() == {"stored": len(files)}


def test_a_private_class_is_kept_too(
    pacs: ModuleType, node: Any, tmp_path: Path, associate: Callable[..., Any]
) -> None:
    series = pacs.write_series(tmp_path / "ct", 1, SOPClassUID="1.2.826.0.1.3680043.9.9.1")
    path = tmp_path / "ct" / "0000.dcm"
    dataset = pydicom.dcmread(path)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(path)
    association = associate(node.port, {(str(dataset.SOPClassUID), str(ExplicitVRLittleEndian))})
    assert association.send_c_store(path).Status == 0x0000
    assert node.rows("SELECT count(*) FROM instances WHERE series_uid = ?", series) == [(1,)]


def test_the_same_again_changes_nothing_and_another_one_of_the_same_name_is_not_kept(
    pacs: ModuleType, node: Any, tmp_path: Path, outcomes: Callable[[], dict[str, float]]
) -> None:
    series = pacs.write_series(tmp_path / "ct", 2)
    for _ in range(2):
        assert pacs.send(node.port, tmp_path / "ct") == 0
    other = pydicom.dcmread(tmp_path / "ct" / "0000.dcm")
    other.PatientComments = "changed"
    other.save_as(tmp_path / "other.dcm")
    assert pacs.send(node.port, tmp_path / "other.dcm") == 0
    assert outcomes() == {"stored": 2, "duplicate": 2, "conflict": 1}
    kept = [path for (path,) in node.rows("SELECT path FROM instances WHERE series_uid = ?", series)]
    assert len(kept) == 2
    assert not any("PatientComments" in pydicom.dcmread(path) for path in kept)
    assert "an instance was not kept: conflict" in node.stderr


def test_what_this_program_made_is_taken_and_not_kept(
    pacs: ModuleType, node: Any, tmp_path: Path, outcomes: Callable[[], dict[str, float]]
) -> None:
    series = pacs.write_series(tmp_path / "ct", 1, Manufacturer="FedMed Edge")
    assert pacs.send(node.port, tmp_path / "ct") == 0
    assert outcomes() == {"ours": 1}
    assert node.rows("SELECT 1 FROM instances WHERE series_uid = ?", series) == []


def test_what_has_no_study_is_refused(
    pacs: ModuleType,
    node: Any,
    tmp_path: Path,
    associate: Callable[..., Any],
    outcomes: Callable[[], dict[str, float]],
) -> None:
    pacs.write_series(tmp_path / "ct", 1)
    path = tmp_path / "ct" / "0000.dcm"
    dataset = pydicom.dcmread(path)
    del dataset.StudyInstanceUID
    dataset.save_as(path)
    assert associate(node.port, {kind_of(path)}).send_c_store(path).Status == 0xC000
    assert outcomes() == {"unreadable": 1}


def test_an_association_that_breaks_off_leaves_nothing(pacs: ModuleType, node: Any, tmp_path: Path) -> None:
    pacs.write_series(tmp_path / "ct", 1, side=1200)
    sender = subprocess.Popen(
        [pacs.DCMTK / "storescu", "+sd", "-aec", "FEDMED", "127.0.0.1", str(node.port), tmp_path / "ct"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    receiving = node.base / "incoming" / ".receiving"
    assert pacs.until(lambda: list(receiving.iterdir()) or sender.poll() is not None, step=0)
    sender.kill()
    sender.wait()
    assert pacs.until(lambda: not list(receiving.iterdir()), 10)


def test_who_may_not_come_is_refused(pacs: ModuleType, site_of: SiteOf) -> None:
    site = site_of(allow=["CT1@127.0.0.1", "*@10.0.0.0/8"]).start()
    for aet, called, reason in (
        ("CT1", "OTHER", "Called AE Title Not Recognized"),
        ("CT2", "FEDMED", "Calling AE Title Not Recognized"),
        ("CT1", "FEDMED", None),
    ):
        said = pacs.dcmtk("echoscu", "-aet", aet, "-aec", called, "127.0.0.1", site.port)
        assert (said.returncode == 0) == (reason is None)
        assert reason is None or reason in said.stdout + said.stderr
    assert site.metric('fedmed_refused_total{reason="aet"}') == 2
    assert "was refused: `allow` does not name its AE title" in site.stderr


def test_an_address_that_may_not_come_is_turned_away_before_it_says_anything(
    pacs: ModuleType, site_of: SiteOf
) -> None:
    site = site_of(allow=["CT1@10.1.2.3"]).start()
    assert pacs.dcmtk("echoscu", "-aet", "CT1", "-aec", "FEDMED", "127.0.0.1", site.port).returncode != 0
    with socket.create_connection(("127.0.0.1", site.port)) as stranger:
        assert stranger.recv(1) == b""
    assert site.metric('fedmed_refused_total{reason="address"}') == 2


def test_only_so_many_come_at_once(pacs: ModuleType, site_of: SiteOf, associate: Callable[..., Any]) -> None:
    site = site_of(associations=2).start()
    kinds = {("1.2.840.10008.1.1", "1.2.840.10008.1.2")}
    first, second = associate(site.port, kinds), associate(site.port, kinds)
    assert first.is_established and second.is_established
    assert associate(site.port, kinds).is_rejected
    assert site.metric('fedmed_refused_total{reason="limit"}') == 1
    first.release()
    assert pacs.until(lambda: associate(site.port, kinds).is_established, 5)


def test_a_full_disk_turns_away_and_room_lets_in_again(
    pacs: ModuleType, site_of: SiteOf, tmp_path: Path, associate: Callable[..., Any]
) -> None:
    whole = shutil.disk_usage("/tmp").total / 1e9
    site = site_of(watermark_gb=whole * 0.9999).start()
    pacs.write_series(tmp_path / "ct", 1)
    path = tmp_path / "ct" / "0000.dcm"
    assert associate(site.port, {kind_of(path)}).send_c_store(path).Status == 0xA700
    assert site.get("/health") == (
        503,
        '{"healthy": false, "faults": ["the disk is full: nothing more is received"]}',
    )
    assert "less than `watermark_gb` free: an instance was turned away" in site.stderr
    assert not list((site.base / "incoming" / ".receiving").iterdir())
    site.stop()
    site.configure(watermark_gb=0.001)
    site.start()
    assert pacs.send(site.port, path) == 0
    assert site.get("/health")[0] == 200


# --- TLS -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital's authority, a node's and a scanner's certificate by it, and a stranger's own."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("tls")
    now = datetime.datetime.now(datetime.UTC)

    def make(name: str, signer: tuple[Any, Any] | None) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signer[0].subject if signer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
            .sign(signer[1] if signer else key, hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.TraditionalOpenSSL
        content = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        (folder / f"{name}.key").write_bytes(content)
        return made, key

    authority = make("authority", None)
    make("node", authority)
    make("scanner", authority)
    make("stranger", make("elsewhere", None))
    return folder


def echo_tls(pacs: ModuleType, port: int, folder: Path, name: str | None) -> subprocess.CompletedProcess[str]:
    who = ["+tls", folder / f"{name}.key", folder / f"{name}.pem"] if name else ["+tla"]
    return pacs.dcmtk("echoscu", *who, "+cf", folder / "authority.pem", "-aec", "FEDMED", "127.0.0.1", port)


def test_tls_lets_in_whose_certificate_counts_here(
    pacs: ModuleType, site_of: SiteOf, certificates: Path
) -> None:
    names = {"certificate": "node.pem", "key": "node.key", "authority": "authority.pem"}
    site = site_of(tls={name: str(certificates / file) for name, file in names.items()}).start()
    assert site.said["tls"] is True
    # one that says nothing holds up nobody
    with socket.create_connection(("127.0.0.1", site.port)):
        assert echo_tls(pacs, site.port, certificates, "scanner").returncode == 0
    for stranger in ("stranger", None):
        assert echo_tls(pacs, site.port, certificates, stranger).returncode != 0
    plain = pacs.dcmtk("echoscu", "-aec", "FEDMED", "127.0.0.1", site.port)
    assert plain.returncode != 0
    assert site.metric('fedmed_refused_total{reason="tls"}') >= 3
    assert "it speaks no TLS, or shows no certificate that `authority` signed" in site.stderr
    assert "Traceback" not in site.stderr


def test_results_go_over_tls_too(
    pacs: ModuleType, site_of: SiteOf, certificates: Path, tmp_path: Path
) -> None:
    names = {"certificate": "node.pem", "key": "node.key", "authority": "authority.pem"}
    tls = {name: str(certificates / file) for name, file in names.items()}
    archive = site_of(tls=tls).start()
    names |= {"certificate": "scanner.pem", "key": "scanner.key"}
    tls = {name: str(certificates / file) for name, file in names.items()}
    to = f"dicoms://FEDMED@127.0.0.1:{archive.port}"
    site = site_of(send=True, destination=to, tls=tls)
    pacs.write_series(tmp_path / "ct", 1, Manufacturer="FedMed Edge")
    site.configure()
    said = site.run("send", tmp_path / "ct" / "0000.dcm")
    assert said.returncode == 0, said.stderr
    assert archive.metric('fedmed_instances_total{outcome="ours"}') == 1
    site.configure(destination=to.replace("dicoms", "dicom"))
    assert site.run("send", tmp_path / "ct" / "0000.dcm").returncode == 7


def test_tls_without_an_authority_asks_for_no_certificate(
    pacs: ModuleType, site_of: SiteOf, certificates: Path
) -> None:
    tls = {"certificate": str(certificates / "node.pem"), "key": str(certificates / "node.key")}
    site = site_of(tls=tls).start()
    assert echo_tls(pacs, site.port, certificates, None).returncode == 0


def test_a_certificate_that_is_none_is_named(site_of: SiteOf, certificates: Path) -> None:
    site = site_of(tls={"certificate": str(certificates / "node.key"), "key": str(certificates / "node.key")})
    assert site.refused() == 1
    assert "error: listen.tls: the certificates cannot be used" in site.stderr


# --- the end ---------------------------------------------------------------------------------------------


def test_sigterm_ends_within_two_seconds_and_loses_nothing_that_was_confirmed(
    pacs: ModuleType, site_of: SiteOf, tmp_path: Path
) -> None:
    site = site_of(settle_s=3600).start()
    pacs.write_series(tmp_path / "ct", 200)
    sender = subprocess.Popen(
        [
            pacs.DCMTK / "storescu",
            "-v",
            "+sd",
            "-aec",
            "FEDMED",
            "127.0.0.1",
            str(site.port),
            tmp_path / "ct",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert pacs.until(lambda: site.rows("SELECT count(*) FROM instances")[0][0] > 20)
    assert site.stop() < 2
    confirmed = sender.communicate(timeout=60)[0].count("Received Store Response (Success)")
    assert 20 < confirmed < 200
    ((kept,),) = site.rows("SELECT count(*) FROM instances")
    assert confirmed <= kept <= confirmed + 1
    assert not list(site.rows("SELECT 1 FROM jobs"))
    # and goes on
    site.start()
    assert pacs.send(site.port, tmp_path / "ct") == 0
    assert site.rows("SELECT count(*) FROM instances") == [(200,)]


def test_a_port_that_is_taken_is_named(site_of: SiteOf) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        site = site_of(port=taken.getsockname()[1])
        assert site.refused() == 1
    assert f"listen: cannot listen at 127.0.0.1 port {site.listen['port']}" in site.stderr
