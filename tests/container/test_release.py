"""What lies beside the images: lists of contents, checksums, a signature; and how they are to be run."""

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CONTAINERS = Path(__file__).parents[2] / "containers"
IMAGES = ("infer", "train", "server", "server-train")
VERIFY = "openssl pkeyutl -verify -rawin -pubin -inkey {} -in SHA256SUMS -sigfile SHA256SUMS.sig"


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)


def test_the_signature_holds_as_the_documentation_tells_to_check_it(work: Path) -> None:
    text = (CONTAINERS.parent / "docs" / "containers.md").read_text()
    assert VERIFY.format("release.pub") in text and "sha256sum -c SHA256SUMS" in text
    done = shell(VERIFY.format(work / "release.pub") + " && sha256sum -c SHA256SUMS", work / "images")
    assert done.returncode == 0, done.stdout + done.stderr
    listed = {line.split()[1] for line in (work / "images" / "SHA256SUMS").read_text().splitlines()}
    files = {path.name for path in (work / "images").iterdir()}
    assert listed == files - {"SHA256SUMS", "SHA256SUMS.sig"}


def test_a_list_that_was_changed_or_signed_by_another_is_refused(work: Path, tmp_path: Path) -> None:
    for name in ("SHA256SUMS", "SHA256SUMS.sig"):
        shutil.copy(work / "images" / name, tmp_path)
    shell("openssl genpkey -algorithm ed25519 | openssl pkey -pubout -out other.pub", tmp_path)
    assert shell(VERIFY.format(tmp_path / "other.pub"), tmp_path).returncode != 0
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(sums.read_text().replace("a", "b", 1))
    assert shell(VERIFY.format(work / "release.pub"), tmp_path).returncode != 0


@pytest.mark.parametrize("image", IMAGES)
def test_the_engine_knows_an_image_by_the_digest_that_is_signed(engine, work: Path, image: str) -> None:
    digests = dict(line.split()[1::-1] for line in (work / "images" / "images.txt").read_text().splitlines())
    (found,) = engine("image", "inspect", f"fedmed-{image}").json
    assert found["Id"] == digests[f"fedmed-{image}"]


@pytest.mark.parametrize("image", IMAGES)
def test_both_lists_of_contents_name_every_package(work: Path, image: str) -> None:
    locked = {
        (canonical(name), version)
        for name, version in re.findall(
            r"^([\w.-]+)==(\S+)", (CONTAINERS / "requirements" / f"{image}.txt").read_text(), re.M
        )
    }
    base = work / "images" / f"fedmed-{image}.tar"
    cyclone, spdx = (json.loads(Path(f"{base}.{kind}.json").read_text()) for kind in ("cdx", "spdx"))
    assert cyclone["bomFormat"] == "CycloneDX" and spdx["spdxVersion"].startswith("SPDX-2")
    named = {(canonical(one["name"]), one.get("version")) for one in cyclone["components"]}
    assert locked <= named
    assert locked <= {(canonical(one["name"]), one.get("versionInfo")) for one in spdx["packages"]}
    assert {"fedmed-edge", "libc6", "openssl"} - {name for name, _ in named} <= {"openssl"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# --- how to run them --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """compose.yaml as docker-compose understands it."""
    done = shell("/usr/bin/docker-compose -f compose.yaml config", CONTAINERS)
    assert done.returncode == 0, done.stderr
    import yaml

    return dict(yaml.safe_load(done.stdout))


def test_every_service_of_ours_in_compose_is_hardened(composed: dict[str, Any]) -> None:
    ours = {name: one for name, one in composed["services"].items() if name != "pacs"}
    assert set(ours) == {"server", "hospital-a", "hospital-b", "scanner-a"}
    for one in ours.values():
        assert one["read_only"] is True and one["cap_drop"] == ["ALL"] and one["pids_limit"] == 1024
        assert one["security_opt"] == ["no-new-privileges:true"] and "mem_limit" in one
        assert "privileged" not in one and "cap_add" not in one
        assert next(mount.split(":")[1] for mount in one["volumes"]) == "/var/lib/fedmed"


def test_compose_starts_a_server_that_is_well(engine, until, tmp_path: Path) -> None:
    compose = f"/usr/bin/docker-compose -p example -f {CONTAINERS / 'compose.yaml'} "
    try:
        made = shell(compose + "run --rm server init /var/lib/fedmed --host server", tmp_path)
        assert made.returncode == 0, made.stdout + made.stderr
        up = shell(compose + "up -d server", tmp_path)
        assert up.returncode == 0, up.stdout + up.stderr
        name = shell(compose + "ps -q server", tmp_path).stdout.strip()
        until(
            lambda: engine.state(name)["Health"]["Status"] == "healthy",
            "the server is well",
            logs=lambda: engine.logs(name),
        )
    finally:
        shell(compose + "down --volumes", tmp_path)


@pytest.mark.parametrize("name", ["fedmed-agent", "fedmed-listen"])
def test_the_units_of_systemd_have_the_same_hardening(name: str) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    text = (CONTAINERS / f"{name}.service").read_text()
    unit.read_string(text)
    start = re.sub(r"\\\n\s*", "", text).split("ExecStart=")[1].splitlines()[0]
    for option in (
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--tmpfs=/tmp",
        "--pids-limit=1024",
        "--memory=",
    ):
        assert option in start, option
    assert unit["Service"]["Restart"] == "always"
    done = shell(f"systemd-analyze verify --man=no {name}.service", CONTAINERS)
    assert done.returncode == 0 and done.stderr == "", done.stderr
