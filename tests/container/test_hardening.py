"""Containers with no rights, a root file system that nobody can write, and no way out."""

import time

import pytest

USERS = ("10001:0", "1000680000:0")
STATUS = "print(open('/proc/self/status').read())"


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("image", ["infer", "train", "server"])
def test_a_container_has_no_rights(engine, image: str, user: str) -> None:
    said = engine.ask(f"fedmed-{image}", "-c", STATUS, options=("--entrypoint", "python3", "--user", user))
    status = dict(line.split(":\t", 1) for line in said.out.splitlines() if ":\t" in line)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"].split()[0] == user.split(":")[0]


@pytest.mark.parametrize("user", USERS)
def test_the_volume_can_be_written_and_nothing_else(engine, volume: str, user: str) -> None:
    code = """
import os
for folder in ("/var/lib/fedmed", "/tmp", "/", "/opt/fedmed", "/data", "/etc", "/usr/local"):
    try:
        open(os.path.join(folder, "probe"), "w").close()
        print(folder)
    except OSError:
        pass
"""
    mounted = ("--entrypoint", "python3", "--user", user, "--volume", f"{volume}:/var/lib/fedmed")
    assert engine.ask("fedmed-infer", "-c", code, options=mounted).out.split() == ["/var/lib/fedmed", "/tmp"]


@pytest.mark.parametrize("user", USERS)
def test_a_site_folder_is_made_in_the_volume(engine, volume: str, user: str) -> None:
    mounted = ("--user", user, "--volume", f"{volume}:/var/lib/fedmed")
    engine.ask("fedmed-train", "init", "/var/lib/fedmed/site", "--site", "hospital-a", options=mounted)
    listed = engine.ask(
        "fedmed-train", "-lR", "/var/lib/fedmed/site", options=(*mounted, "--entrypoint", "ls")
    ).out
    assert "fedmed.toml" in listed
    keys = [line for line in listed.splitlines() if line.endswith(".key")]
    assert keys and all(line.startswith("-rw-------") for line in keys)


def test_a_volume_that_belongs_to_root_is_told_with_what_to_do(engine, tmp_path) -> None:
    folder = tmp_path / "volume"
    folder.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    said = engine.ask(
        "fedmed-train",
        "init",
        "/var/lib/fedmed/site",
        "--site",
        "hospital-a",
        options=("--volume", f"{folder}:/var/lib/fedmed"),
        check=False,
    )
    assert said.code == 1 and "error: /var/lib/fedmed" in said.err and "hint: " in said.err
    assert "Traceback" not in said.err


def test_there_is_no_way_out_of_an_internal_network(engine) -> None:
    engine("network", "create", "--internal", "closed")
    try:
        code = """
import socket
try:
    socket.create_connection(("192.0.2.1", 443), timeout=5)
except OSError as error:
    print(error.errno)
"""
        said = engine.ask(
            "fedmed-infer", "-c", code, options=("--entrypoint", "python3", "--network", "closed")
        )
        assert said.out.strip() in ("101", "113")  # no route
    finally:
        engine("network", "rm", "closed")


def test_memory_beyond_the_limit_ends_the_container_alone(engine) -> None:
    name = engine.start(
        "fedmed-infer",
        "-c",
        "x = bytearray(600 << 20); import time; time.sleep(60)",
        options=("--entrypoint", "python3", "--memory", "256m", "--memory-swap", "256m"),
    )
    deadline = time.monotonic() + 60
    while engine.state(name)["Running"] and time.monotonic() < deadline:
        time.sleep(0.3)
    state = engine.state(name)
    assert (state["ExitCode"], state["OOMKilled"]) == (137, True)
