"""Who gets in, and to what: all that must be refused is tried, over the wire, against a real server."""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

from fedmed_edge.errors import TrustError, Unreachable
from fedmed_edge.federation.engine.authority import Authority
from fedmed_edge.federation.engine.identities import identities_of
from fedmed_edge.federation.engine.reachability import Way, try_connection
from fedmed_edge.federation.engine.site_kit import CERTIFICATE, TLS_KEY, installed_name

SECONDS = 15
"""Time in which a site that may connect has done so twice over."""


def never_connects(network: Any, name: str) -> None:
    (network.f.root / name / "engine" / "connected").unlink(missing_ok=True)
    network.start(name)
    time.sleep(SECONDS)
    assert not network.connected(name)


def tell_free_of_what_stays(text: str, *folders: Path) -> None:
    """What crossed the wall holds no path, traceback or value of a patient."""
    assert "Traceback" not in text and "/labels.csv" not in text
    assert not any(str(folder) in text for folder in folders)


def issue(network: Any, name: str, *, days: int = 100, authority: Authority | None = None) -> None:
    """Give a site another certificate for its own key, behind the server's back."""
    folder = network.f.root / name
    authority = authority or Authority(network.f.server / "engine" / "authority")
    fields = json.loads((folder / f"{name}.request").read_text())
    made = authority.sign(installed_name(folder), fields["tls_request"].encode(), days=days)
    (folder / CERTIFICATE).write_bytes(made)


@pytest.mark.short
def test_certificates_that_are_not_let_in(network: Any, tmp_path: Path, net: ModuleType) -> None:
    network.up("a")
    way = Way("localhost", network.port)
    assert try_connection(network.f.root / "a", way) == "TLSv1.3"
    # of another authority
    issue(network, "b", authority=Authority.create(tmp_path / "other"))
    with pytest.raises(TrustError, match=r"does not let this site in|closed the connection"):
        try_connection(network.f.root / "b", way)
    # run out
    issue(network, "c", days=0)
    time.sleep(1)
    with pytest.raises(TrustError, match=r"does not let this site in|closed the connection"):
        try_connection(network.f.root / "c", way)
    # and with the engine itself
    network.start("b")
    never_connects(network, "c")
    assert not network.connected("b") and network.connected("a")


def test_the_key_of_one_site_under_the_name_of_another(network: Any) -> None:
    root = network.f.root
    network.start("server")
    other = installed_name(root / "a")
    mine = installed_name(root / "b")
    settings = root / "b" / "engine" / "startup" / "fed_client.json"
    settings.write_text(settings.read_text().replace(mine, other))
    never_connects(network, "b")
    assert "claimed" in network.log("server") or "failed to verify" in network.log("server")


def test_a_revoked_site_is_out_at_once_and_stays_out(network: Any, net: ModuleType, figure: Any) -> None:
    root = network.f.root
    network.up("a", "b")
    began = time.monotonic()
    network.f.admin("site", "revoke", "b")
    name = installed_name(root / "b")
    net.until("the engine refuses b", lambda: f"Client {name} disabled" in network.log("server"), seconds=20)
    figure("refused after, s", round(time.monotonic() - began, 1))
    time.sleep(12)
    network.stop("server")
    restarted = time.time()
    network.start("server")
    net.until("a comes back", lambda: _last_contact(root / "a") > restarted, seconds=90)
    time.sleep(12)
    assert _last_contact(root / "b") < restarted
    network.stop("b")
    # it comes back with new keys; the old certificate does not
    shutil.copytree(root / "b", root / "old-b")
    answer = root / "b.signed"
    refused = network.program(
        *("site", "add", "-C", network.f.server, "b", "--request", root / "b" / "b.request", "--out", answer),
        program=net.SERVER,
    )
    assert "its TLS key was revoked" in refused.communicate(timeout=60)[1]
    for name in ("site.key", "b.pub", "b.request", "engine", "fedmed.toml"):
        path = root / "b" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    network.f.ask(net.EDGE, "init", root / "b", "--site", "b", "--data", root / "b-data")
    network.enrol("b")
    network.start("b")
    net.until("b comes back", lambda: network.connected("b"), seconds=60)
    never_connects(network, "old-b")
    assert len([one for one in identities_of(network.f.server).all() if one.site == "b"]) == 2


def _last_contact(folder: Path) -> float:
    return (folder / "engine" / "connected").stat().st_mtime


def test_a_proxy_that_opens_tls_is_named(
    network: Any, net: ModuleType, link: ModuleType, tmp_path: Path
) -> None:
    network.start("server")
    net.until("the server listens", lambda: "Server started" in network.log("server"), seconds=60)
    with (
        link.Link(opens_tls=tmp_path) as proxy,
        pytest.raises(TrustError, match=r"certificate by CN=Hospital Web Filter, not by this federation"),
    ):
        try_connection(network.f.root / "a", Way("localhost", network.port, proxy.address))
    with pytest.raises(Unreachable, match="does not answer"):
        try_connection(network.f.root / "a", Way("localhost", 1))


# --- jobs that are not ours ------------------------------------------------------------------------------

FOREIGN = {
    "code of its own": ("app_site/custom/own.py", "own.Executor", "app_site"),
    "a class of the engine at the site": (None, "nvflare.app_common.np.np_trainer.NPTrainer", "app_site"),
    "a class of the engine at the server": (None, "nvflare.app_common.workflows.fedavg.FedAvg", "app_server"),
    "a program": (None, "subprocess.Popen", "app_site"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_jobs_with_anything_but_our_apps_are_refused(
    what: str, network: Any, net: ModuleType, tmp_path: Path
) -> None:
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    from fedmed_edge.federation.engine import settings
    from fedmed_edge.federation.engine.apps import write_job

    network.set(network.f.server, collect_s=3600.0)
    network.up("a")
    name, (code, path, app) = installed_name(network.f.root / "a"), FOREIGN[what]
    job = tmp_path / "job"
    write_job(job, name, "a", 20)
    side = "client" if app == "app_site" else "server"
    config = job / app / "config" / f"config_fed_{side}.json"
    config.write_text(re.sub(r"fedmed_edge\.federation\.engine\.apps\.Sync\w+", path, config.read_text()))
    if code:
        (job / code).parent.mkdir(parents=True)
        (job / code).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Executor: pass\n")
    session = new_secure_session(settings.ADMIN, str(network.f.server / "engine" / "admin"), timeout=15)
    try:
        try:
            number = session.submit_job(str(job))
        except Exception as error:
            assert re.search("byoc|BYOC|not permitted|not authorized|invalid", str(error)), error
            return
        end = time.monotonic() + 60
        while time.monotonic() < end:
            status = str(session.get_job_meta(number).get("status"))
            if status.startswith(("FINISHED", "FAILED", "ABORTED", "REJECTED")):
                break
            time.sleep(0.5)
        assert status not in ("FINISHED:COMPLETED", "RUNNING"), status
    finally:
        session.close()
    assert not (tmp_path / "ran").exists()
    said = network.log("server") + network.log("a")
    assert re.search(
        "not in allow_list|BYOC not permitted|ComponentNotAuthorized|Unsafe|not authorized", said
    )


def test_a_site_is_no_admin(network: Any, net: ModuleType, tmp_path: Path) -> None:
    """A hospital's key opens no admin session, under whatever name."""
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    from fedmed_edge.federation.engine import settings

    network.start("server")
    net.until("the server listens", lambda: "Server started" in network.log("server"), seconds=30)
    kit = tmp_path / "kit"
    shutil.copytree(network.f.server / "engine" / "admin", kit)
    shutil.copyfile(network.f.root / "a" / CERTIFICATE, kit / "startup" / "client.crt")
    shutil.copyfile(network.f.root / "a" / TLS_KEY, kit / "startup" / "client.key")
    for name in (settings.ADMIN, installed_name(network.f.root / "a")):
        with pytest.raises(Exception) as refused:
            session = new_secure_session(name, str(kit), timeout=5, auto_login_max_tries=1)
            session.submit_job(str(kit))
        assert not isinstance(refused.value, AssertionError)


# --- a site that runs code of its own --------------------------------------------------------------------

HOSTILE = """
def hostile(channel, folder, config, *, stop):
    import json
    from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
    from nvflare.fuel.f3.message import Message
    from fedmed_edge.federation.site_side import SyncResult
    said = {}
    def send(name, content, target=channel._server, headers=()):
        reply = channel._cell.send_request(channel="fedmed", topic="ask", target=target,
            request=Message(dict(headers), content), timeout=8, optional=True)
        payload = reply.payload
        if isinstance(payload, (bytes, bytearray, memoryview)):
            payload = bytes(payload)[:400].decode(errors="replace")
        said[name] = [str(reply.get_header(MessageHeaderKey.RETURN_CODE)), str(payload)]
        Path(os.environ["SAID"]).write_text(json.dumps(said))
    header = b'{"fields":{"protocol":1,"version":"1"},"op":"hello"}'
    good = b"FMW1" + len(header).to_bytes(4, "big") + header
    send("a good one", good)
    send("noise", b"\\0" * 100)
    send("unknown operation", good.replace(b"hello", b"steal"))
    send("above the part's cap", good + b"x" * (6 << 20))
    send("no bytes", {"op": "hello"})
    if os.environ.get("OTHER_JOB"):
        other, name = Path(os.environ["OTHER_JOB"]).read_text().split()
        send("into the job of another", good, target="server." + other)
        forged = {}
        def forge(message):
            for header, value in forged.items():
                message.set_header(header, value)
        # behind the engine's own filter, which sets the true name
        channel._cell.core_cell.add_outgoing_request_filter("*", "*", forge)
        forged["client_name"] = name
        send("under the name of another", good, target="server." + other)
        forged[MessageHeaderKey.ORIGIN] = name + "." + other
        send("and from its address", good, target="server." + other)
        forged.clear()
    send("above the message's cap", b"x" * (80 << 20))
    return SyncResult()

def install(made):
    made.sync = hostile

sys.meta_path.insert(0, After("fedmed_edge.federation.engine.apps", install))
"""


@pytest.mark.short
def test_a_hostile_site_gets_refusals_and_nothing_else(
    network: Any, net: ModuleType, stops: ModuleType, tmp_path: Path, figure: Any
) -> None:
    root, said, other = network.f.root, tmp_path / "said.json", tmp_path / "other"

    # a's job goes on while b tries to get into it
    network.set(root / "a", bytes_per_s=600_000)
    network.hand_over("a")
    network.up("a")
    job = net.until("a's job runs", lambda: _job_of(network), seconds=60)
    other.write_text(f"{job} {installed_name(root / 'a')}")
    hostile = stops.customised(tmp_path / "hostile", HOSTILE)
    network.start("b", **hostile, SAID=str(said), OTHER_JOB=str(other))
    net.until(
        "b has tried all",
        lambda: "above the message's cap" in said.read_text() if said.exists() else 0,
        seconds=120,
    )
    answers = {name: text for name, (code, text) in json.loads(said.read_text()).items()}
    assert '"error"' not in answers["a good one"] and "FMW1" in answers["a good one"]
    assert "not a message of this protocol" in answers["noise"]
    assert "`op` has 'steal', expected one of" in answers["unknown operation"]
    assert "expected at most" in answers["above the part's cap"]
    assert "not a message of this protocol" in answers["no bytes"]
    for name in ("into the job of another", "under the name of another", "and from its address"):
        assert "FMW1" not in answers[name] or "comes from another site" in answers[name], answers[name]
    assert "FMW1" not in answers["above the message's cap"]
    for text in answers.values():
        tell_free_of_what_stays(text, root)
    figure("answers", len(answers))
    # a's own work goes on
    network.set(root / "a", bytes_per_s=50_000_000)
    assert "refused a request" in network.log("server")


def _job_of(network: Any) -> str | None:
    """Number of the job that runs at site a, once it talks to the server."""
    egress = network.f.root / "a" / "egress.jsonl"
    if not egress.exists():
        return None
    folders = [path.name for path in (network.f.root / "a" / "engine").iterdir() if len(path.name) == 36]
    return folders[0] if folders else None


def test_no_egress_but_to_the_server(
    network: Any, tmp_path: Path, figure: Any, lacks: Callable[[str], NoReturn]
) -> None:
    """Every address that a process of the agent connects or sends to, as the kernel saw it."""
    if shutil.which("strace") is None:
        lacks("strace: sh tests/packages.sh installs it")

    trace = tmp_path / "trace"
    network.hand_over("a")
    network.start("server")
    network.start("a", under=["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace)])
    network.until_taken("a")
    tracer = network.processes.pop("a")
    tracer.children()[0].terminate()
    tracer.wait(30)
    text = trace.read_text()
    found = re.findall(r'sin_port=htons\((\d+)\), sin_addr=inet_addr\("([^"]+)"\)', text)
    six = re.findall(r'sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, "([^"]+)"', text)
    abroad = {
        (address, int(port))
        for port, address in [*found, *six]
        if address not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    }
    # a UDP socket's connect to a private address tells one's own; no packet goes
    assert abroad <= {("10.255.255.255", 1)}, abroad
    # on this machine: the server, the engine's own listener, and no name server
    ports = {int(port) for port, _ in [*found, *six]} - {1}
    assert network.port in ports and 53 not in ports
    figure("addresses beyond this machine that got a packet", 0)
