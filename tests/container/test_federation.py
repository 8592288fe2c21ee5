"""Two hospitals, a server and a scanner's computer as containers: the whole path, and what may go wrong.

Hospital a is set up by the very commands of docs/containers.md, b by settings of the environment. Each has a
network of its own with the server and does not see the other.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kits import load

REPOSITORY = Path(__file__).parents[2]
QUICK_HEALTH = ("--health-interval=2s", "--health-start-period=90s")
TMPFS_MB = 512
"""Of the volumes of server and b, which are to fill up; a server that has less than 256 MB takes nothing."""

A, B, SERVER = "fedmed-agent", "hospital-b", "server"
PROGRAM = {A: "fedmed-edge", B: "fedmed-edge", SERVER: "fedmed-server"}
SETTINGS = {"FEDMED_POLICY_MIN_COHORT": 2, "FEDMED_POLICY_WIDTH_RULE": "off"}

SNIFF = """
import socket, sys
wire, seen = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)), set()
while True:
    frame, (card, protocol, kind, *_) = wire.recvfrom(65535)
    six, ip = protocol == 0x86DD, frame[14:]
    if protocol not in (0x0800, 0x86DD) or (kind != 4 and card != "lo"):
        continue
    carried, head = (ip[6], 40) if six else (ip[9], 4 * (ip[0] & 15))
    if carried not in (6, 17):
        continue
    target = socket.inet_ntop(*((socket.AF_INET6, ip[24:40]) if six else (socket.AF_INET, ip[16:20])))
    port, name = int.from_bytes(ip[head + 2 : head + 4], "big"), ""
    if card == "lo" and (carried != 17 or target != "127.0.0.11"):
        continue
    if card == "lo" or (carried, port) == (17, 53):
        query, labels = ip[head + 8 + 12 :], []
        while query and 0 < query[0] < 64:
            labels.append(query[1 : query[0] + 1].decode(errors="replace"))
            query = query[query[0] + 1 :]
        name, port = ".".join(labels), 53  # the engine's resolver listens at a port of its own
    if kind == 4 and carried == 6 and not ip[head + 13] & 2 and card != "lo":
        continue  # of TCP who begins: SYN
    if (target, port, name) not in seen:
        seen.add((target, port, name))
        print(card, carried, target, port, name, flush=True)
"""


def documented() -> tuple[str, str, str]:
    """The commands of docs/containers.md: until the admin is asked, from the answer on, and the last one."""
    text = (REPOSITORY / "docs" / "containers.md").read_text()
    block = re.search(r"^## From pull to first contribution\n.*?^```sh\n(.*?)^```", text, re.M | re.S)
    assert block
    options, pull, rest = block[1].partition("docker pull")
    before, asked, after = rest.partition("# the request")
    start, contribute, last = after.partition("docker exec")
    assert pull and asked and contribute
    return options + pull + before, options + asked + start, contribute + last


class Federation:
    """The containers and the folders behind their volumes."""

    def __init__(self, engine: Any, until: Any, root: Path, work: Path) -> None:
        self.engine, self.until, self.root, self.work = engine, until, root, work
        self.exchange, self.commands = root / "exchange", documented()
        self.folder = {A: root / "site", B: root / "b", SERVER: root / "server"}

    def prepare(self) -> None:
        """Folders, images of two hospitals, two networks."""
        made = load("end_to_end/federation.py")
        for seed, data in enumerate(("data", "b-data")):
            made.classification(self.root / data, seed)
        self.exchange.mkdir()
        self.exchange.chmod(0o777)
        (self.exchange / "lesion.toml").write_text(
            made.RECIPE.format(kind="classification", network="residual_encoder")
        )
        for name in (B, SERVER):  # a file system of its own, which may fill up; ends with the namespaces
            self.folder[name].mkdir()
            size = f"size={TMPFS_MB}m,uid=10001,gid=0,mode=0770"
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", self.folder[name]], check=True)
        for name in (A, B):
            self.engine("network", "create", f"net-{name}")

    def server(self) -> None:
        """Make the server and start it in both networks."""
        volume = self.mounts(SERVER)
        self.engine.ask("fedmed-server", "init", "/var/lib/fedmed", "--host", SERVER, options=volume)
        shutil.copy(self.folder[SERVER] / "server.pub", self.exchange)
        settings = {"FEDMED_FEDERATION_COLLECT_S": 3, "FEDMED_FEDERATION_QUORUM": 1}
        options = (*volume, *environment(settings), *QUICK_HEALTH, "--network", f"net-{A}")
        self.engine.start("fedmed-server", options=options, name=SERVER)
        self.engine("network", "connect", f"net-{B}", SERVER)

    def by_the_book(self, commands: str, settings: dict[str, Any]) -> None:
        """Run commands of the documentation, in folders and a network of the test."""
        more = " ".join((f"--network net-{A}", *environment(settings), *QUICK_HEALTH))
        shell = f"""
        docker() {{
            [ "$1" = run ] || {{ /usr/bin/docker "$@"; return; }}
            shift; /usr/bin/docker run {more} "$@"
        }}
        """
        text = commands.replace("/srv/fedmed", str(self.root)).replace("<registry>/", "")
        load = f"docker load -qi {self.work}/images/fedmed-train.tar"
        text = re.sub(r"^docker pull .*$", load, text, flags=re.MULTILINE)
        done = subprocess.run(["bash", "-euc", shell + text], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def join(self, name: str, site: str) -> str:
        """Have the server answer a site's request; the fingerprint of the server's key."""
        shutil.copy(self.folder[name] / f"{site}.request", self.folder[SERVER])
        given = ("--request", f"/var/lib/fedmed/{site}.request", "--out", f"/var/lib/fedmed/{site}.signed")
        self.admin("site", "add", site, *given)
        shutil.copy(self.folder[SERVER] / f"{site}.signed", self.exchange)
        shown = self.engine.ask(
            "fedmed-train", "inspect", "/exchange/server.pub", "--json", options=self.mounts(B)
        )
        return str(shown.json["fingerprint"])

    def second_hospital(self) -> None:
        """Enrol b, whose settings come from its environment."""
        given = ("--site", B, "--data", "/data", "--recipe", "/exchange/lesion.toml")
        trust = ("--server-key", "/exchange/server.pub")
        self.engine.ask("fedmed-train", "init", "/var/lib/fedmed", *given, *trust, options=self.mounts(B))
        mark = self.join(B, B)
        installed = ("--install", f"/exchange/{B}.signed", "--fingerprint", mark)
        self.engine.ask("fedmed-train", "init", "/var/lib/fedmed", *installed, options=self.mounts(B))
        options = (*self.mounts(B), *environment(SETTINGS), *QUICK_HEALTH, "--network", f"net-{B}")
        self.engine.start("fedmed-train", options=options, name=B)

    def mounts(self, name: str) -> tuple[str, ...]:
        """Volumes of a container."""
        data = {A: "data", B: "b-data", SERVER: "exchange"}[name]
        return (
            f"--volume={self.folder[name]}:/var/lib/fedmed",
            f"--volume={self.root / data}:/data:ro",
            f"--volume={self.exchange}:/exchange",
        )

    def well(self, *names: str) -> None:
        """Wait until containers are healthy."""
        for name in names:
            self.until(
                lambda name=name: self.engine.state(name)["Health"]["Status"] == "healthy",
                f"{name} is well",
                logs=lambda name=name: self.engine.logs(name) + json.dumps(self.engine.state(name)["Health"]),
            )

    def verb(self, name: str, *words: object, check: bool = True) -> Any:
        """What a verb says beside the one that runs in a container."""
        return self.engine("exec", name, PROGRAM[name], *words, check=check)

    def admin(self, *words: object) -> Any:
        """What the server's program answers."""
        return self.verb(SERVER, *words, "--json").json

    def hand_over(self, name: str = B) -> str:
        """Put a contribution into a hospital's outbox, without waiting; its id."""
        return str(self.verb(name, "contribute", "--no-wait", "--json").json["id"])

    def state(self, contribution: str, name: str = B) -> str:
        """How far a contribution of a hospital is."""
        for path in (self.folder[name] / "outbox").glob("*.json"):
            parcel = json.loads(path.read_text())
            if parcel["id"] == contribution:
                return str(parcel["state"])
        return "lost"

    def arrives(self, contribution: str, name: str = B) -> None:
        """Wait until the server has a contribution, once, and everything else it ever had."""
        self.until(
            lambda: self.state(contribution, name) == "taken",
            "the server takes the contribution",
            logs=lambda: self.engine.logs(name) + self.engine.logs(SERVER),
        )
        status = self.admin("status")
        assert [one["id"] for one in status["contributions"]].count(contribution) == 1
        assert status["faults"] == []
        self.admin("log", "--verify")

    def generation(self, file: str, *given: str) -> None:
        """Publish a generation by the image that has torch, and wait until both hospitals have it."""
        where = ("--out", f"/var/lib/fedmed/{file}")
        words = ("generation", "publish", *given, *where, "--json")
        made = self.engine.ask("fedmed-server-train", *words, options=self.mounts(SERVER)).json
        offered = self.admin("publish", f"/var/lib/fedmed/{file}")
        assert made["draft"] == ("start" in file)
        for name in (A, B):
            path = self.folder[name] / "inbox"
            self.until(
                lambda path=path: (path / f"{offered['digest']}.json").exists(),
                f"{file} comes to {name}",
                logs=lambda name=name: self.engine.logs(name),
            )


def environment(values: dict[str, Any]) -> tuple[str, ...]:
    """Options of `docker run` that set variables."""
    return tuple(f"--env={name}={value}" for name, value in values.items())


@pytest.fixture(scope="module")
def federation(engine, until, work, tmp_path_factory) -> Iterator[Federation]:
    """Server and both hospitals, running and connected."""
    made = Federation(engine, until, tmp_path_factory.mktemp("federation"), work)
    made.prepare()
    engine.started.append(A)
    try:
        made.server()
        made.well(SERVER)
        began = time.monotonic()
        made.by_the_book(made.commands[0], SETTINGS)
        mark = made.join(A, "hospital-a")
        made.by_the_book(made.commands[1].replace("SHA256:…", mark), SETTINGS)
        print(f"hospital a is enrolled after {time.monotonic() - began:.0f} s")
        made.second_hospital()
        made.well(A, B)
        yield made
    finally:
        engine.stop_all()
        for name in (A, B):
            engine("network", "rm", f"net-{name}", check=False)
        for name in (B, SERVER):
            subprocess.run(["umount", made.folder[name]], check=False)


@pytest.fixture(scope="module")
def wire(engine, federation, tmp_path_factory) -> Iterator[Path]:
    """What hospital a sends, and which names it looks up, from here on: a line each."""
    path = tmp_path_factory.mktemp("wire") / "seen"
    inside = ["nsenter", "-t", str(engine.state(A)["Pid"]), "-n", sys.executable, "-c", SNIFF]
    with path.open("w") as file, subprocess.Popen(inside, stdout=file) as process:
        yield path
        process.kill()


def test_hospitals_contribute_the_server_rebuilds_and_a_scanner_answers(
    engine, federation: Federation, wire: Path
) -> None:
    f = federation
    f.generation("start.generation", "--recipe", "/exchange/lesion.toml")
    f.by_the_book(f.commands[2], {})  # the fifth of them
    f.arrives(f.hand_over())
    f.generation("tiny.generation", "--stored")
    for name in (A, B):
        assert f.verb(name, "contribute", "--json").json["state"] == "taken"
    assert f.admin("rebuild")["sites"] == ["hospital-a", "hospital-b"]
    f.admin("publish")
    f.verb(A, "pull", "--wait", 90)
    f.verb(A, "model", "activate")

    began = time.monotonic()
    asked = ("infer", "/data/1.png", "-o", "/tmp/results", "--json")
    answer = engine.ask("fedmed-infer", *asked, options=(*f.mounts(A), "--network=none")).json
    print(f"start of the infer container to its first answer: {time.monotonic() - began:.1f} s")
    assert answer["error"] is None and answer["label"] == "bright"
    told = engine.ask("fedmed-infer", "--version", "--json", options=f.mounts(A)).json
    listed = f.verb(A, "model", "list", "--json").json
    assert told["model"] and told["model"] in json.dumps(listed)
    assert told["revision"] and told["version"]


def test_a_study_that_is_sent_to_the_infer_container_comes_back_as_dicom(
    engine, federation: Federation, until, tmp_path
) -> None:
    pacs = load("end_to_end/pacs.py")
    orthanc = pacs.Orthanc(tmp_path / "pacs")
    network, alias = f"net-{A}", "scanner"
    try:
        (found,) = engine("network", "inspect", network).json
        gateway = found["IPAM"]["Config"][0]["Gateway"]
        settings = {
            "FEDMED_LISTEN_BIND": "0.0.0.0",
            "FEDMED_LISTEN_ALLOW": f"CT1@{gateway}",
            "FEDMED_LISTEN_SEND": "true",
            "FEDMED_LISTEN_DESTINATION": f"ORTHANC@{gateway}:{orthanc.port}",
            "FEDMED_LISTEN_SETTLE_S": 1,
            "FEDMED_LISTEN_WATERMARK_GB": 0.01,
        }
        options = (*federation.mounts(A), *environment(settings), *QUICK_HEALTH, f"--network={network}")
        began = time.monotonic()
        engine.start("fedmed-infer", options=options, name=alias)
        federation.well(alias)
        print(f"start of the listener until it is healthy: {time.monotonic() - began:.1f} s")
        series = pacs.write_series(tmp_path / "study", slices=1, side=40, value=170)
        address = engine.address(alias, network)
        sent = pacs.dcmtk(
            "storescu", "-aet", "CT1", "-aec", "FEDMED", address, 11112, tmp_path / "study" / "0000.dcm"
        )
        assert sent.returncode == 0, sent.stderr
        until(lambda: orthanc.series(), "the report comes to the PACS", logs=lambda: engine.logs(alias))
        (report,) = orthanc.instances()
        tags = orthanc.get(f"/instances/{orthanc.get('/instances')[0]}/simplified-tags")
        assert tags["SOPInstanceUID"] == report and tags["Modality"] == "SR"
        assert series in json.dumps(tags)  # the report names what it is about
        began = time.monotonic()
        engine("stop", "--time", "10", alias)
        assert time.monotonic() - began < 3.0 and engine.state(alias)["ExitCode"] == 0
    finally:
        orthanc.stop()
        engine("rm", "--force", alias, check=False)


# --- faults: a contribution is on its way, and arrives, once ---------------------------------------------


@pytest.mark.parametrize(
    ("stop", "seconds", "go_on"), [("kill", 2, "start"), ("pause", 15, "unpause")], ids=["killed", "hangs"]
)
@pytest.mark.parametrize("who", [B, SERVER])
def test_one_that_stops_goes_on(
    engine, federation: Federation, who: str, stop: str, seconds: float, go_on: str
) -> None:
    given = federation.hand_over()
    engine(stop, who)
    time.sleep(seconds)
    engine(go_on, who)
    federation.well(SERVER, B)
    federation.arrives(given)


def test_a_network_that_was_parted_is_used_again(engine, federation: Federation, until) -> None:
    cable = veth(engine, B)
    subprocess.run(["ip", "link", "set", cable, "down"], check=True)
    given = federation.hand_over()
    until(lambda: engine.state(B)["Health"]["Status"] == "unhealthy", "health tells of it")
    until(lambda: "does not answer" in engine.logs(B), "the log tells of it", logs=lambda: engine.logs(B))
    assert federation.state(given) == "waiting"
    subprocess.run(["ip", "link", "set", cable, "up"], check=True)
    federation.well(B)
    federation.arrives(given)


def veth(engine, name: str) -> str:
    """The engine's end of a container's cable."""
    inside = ["nsenter", "-t", str(engine.state(name)["Pid"]), "-n", "ip", "-json", "link", "show", "eth0"]
    (own,) = json.loads(subprocess.run(inside, capture_output=True, text=True, check=True).stdout)
    links = subprocess.run(["ip", "-json", "link"], capture_output=True, text=True, check=True).stdout
    return str(next(one["ifname"] for one in json.loads(links) if one["ifindex"] == own["link_index"]))


def test_a_hospital_that_ran_out_of_memory_goes_on(engine, federation: Federation, until) -> None:
    given = federation.hand_over()
    engine("stop", "--time", "10", B)
    since = time.time()
    engine("update", "--memory=96m", "--memory-swap=96m", B)
    engine("start", B, check=False)

    def killed() -> bool:
        told = ("--since", f"{since:.3f}", "--until", f"{time.time():.3f}", "--filter", "event=oom")
        return bool(engine("events", *told, "--filter", f"container={B}").out)

    until(killed, "memory runs out", logs=lambda: engine.logs(B))
    engine("stop", "--time", "10", B)
    engine("update", "--memory=1g", "--memory-swap=1g", B)
    engine("start", B)
    federation.well(B)
    federation.arrives(given)


def test_a_hospital_whose_volume_is_full_says_so_and_loses_nothing(federation: Federation) -> None:
    fill(federation.folder[B])
    said = federation.verb(B, "contribute", check=False)
    assert said.code == 1 and "no space left on device" in said.err.lower() and "hint: " in said.err
    assert "Traceback" not in said.err
    (federation.folder[B] / "filler").unlink()
    federation.well(B)
    federation.arrives(federation.hand_over())


def test_a_server_whose_volume_is_full_takes_it_later(federation: Federation) -> None:
    fill(federation.folder[SERVER])
    given = federation.hand_over()
    time.sleep(10)
    assert federation.state(given) == "waiting"
    (federation.folder[SERVER] / "filler").unlink()
    federation.arrives(given)


def fill(folder: Path) -> None:
    """Leave no room on the file system of a folder."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)) == 1 << 16:
                pass
        except OSError:
            pass


@pytest.mark.parametrize("who", [B, SERVER])
def test_sigterm_ends_it_within_two_seconds_and_nothing_is_lost(
    engine, federation: Federation, who: str
) -> None:
    given = federation.hand_over()
    began = time.monotonic()
    engine("stop", "--time", "10", who)
    took = time.monotonic() - began
    print(f"{who}: stopped after {took:.1f} s")
    assert took < 3.0  # the engine's own part with it
    assert engine.state(who)["ExitCode"] == 0
    assert "Traceback" not in engine.logs(who)
    engine("start", who)
    federation.well(SERVER, B)
    federation.arrives(given)


def test_nothing_left_a_hospital_but_to_its_server(engine, federation: Federation, wire: Path) -> None:
    server = engine.address(SERVER, f"net-{A}")
    sent = {tuple(line.split(" ")[2:]) for line in wire.read_text().splitlines()}
    asked = {(target, port, name) for target, port, name in sent if port == "53"}
    assert sent - asked == {(server, "8002", "")}
    # by the engine, which looks elsewhere for a container that is down
    assert {name for _, _, name in asked} <= {SERVER}
    found = engine("exec", A, "fedmed-edge", "log", "--json").json
    assert found


# --- start-up --------------------------------------------------------------------------------------------


@pytest.fixture
def copy(federation: Federation, tmp_path: Path) -> Path:
    """A copy of the folder of hospital a, which no agent works on."""
    subprocess.run(["cp", "-a", federation.folder[A], tmp_path / "site"], check=True)
    shutil.rmtree(tmp_path / "site" / "run")
    return tmp_path / "site"


def agent(engine, federation: Federation, folder: Path, *options: str, verb: str = "agent") -> Any:
    """What a hospital's container says where it ends by itself."""
    mounts = (f"--volume={folder}:/var/lib/fedmed", f"--volume={federation.root / 'data'}:/data:ro")
    return engine.ask("fedmed-train", verb, options=(*mounts, *options), check=False)


@pytest.mark.parametrize("name", ["site.key", "engine/startup/client.key"])
def test_a_key_that_is_missing_is_told_at_the_start(engine, federation, copy: Path, name: str) -> None:
    (copy / name).unlink()
    said = agent(engine, federation, copy)
    assert said.code == 1 and "error: " in said.err and name in said.err and "Traceback" not in said.err


def test_a_volume_that_cannot_be_written_is_told_at_the_start(engine, federation, copy: Path) -> None:
    subprocess.run(["chown", "-R", "root:root", copy], check=True)
    subprocess.run(["chmod", "-R", "go=rX", copy], check=True)
    said = agent(engine, federation, copy)
    assert said.code == 1 and "error: /var/lib/fedmed" in said.err and "hint: " in said.err
    assert "Traceback" not in said.err


def test_a_server_that_cannot_be_reached_is_told_in_the_log(engine, federation, copy: Path, until) -> None:
    mounts = (f"--volume={copy}:/var/lib/fedmed", f"--volume={federation.root / 'data'}:/data:ro")
    name = engine.start("fedmed-train", options=(*mounts, "--network=none"))
    until(
        lambda: "does not answer" in engine.logs(name) and "hint: let this machine" in engine.logs(name),
        "the log tells of it",
        logs=lambda: engine.logs(name),
    )
    said = agent(engine, federation, copy, "--network=none", verb="doctor")
    assert said.code == 1 and re.search(r"^fault +connection", said.out, re.M)


def test_a_clock_that_is_wrong_is_told(engine, federation, copy: Path) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    wrong = ("--env=LD_PRELOAD=/faketime.so", "--env=FAKETIME=@2001-01-01 00:00:00")
    network = (f"--volume={library}:/faketime.so:ro", f"--network=net-{A}")
    said = agent(engine, federation, copy, *network, *wrong, verb="doctor")
    assert said.code == 1, said.out
    assert re.search(r"^fault +clock +2001.*\n +hint: set the clock", said.out, re.M), said.out
    assert re.search(r"^fault +connection.*not yet valid.*\n +hint:.*clock is off", said.out, re.M), said.out
