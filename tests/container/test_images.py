"""What is in the images, and what is not."""

import tarfile
import zlib
from pathlib import Path

import pytest

IMAGES = ("infer", "train", "server", "server-train")
PROGRAM = {"infer": "fedmed-edge", "train": "fedmed-edge"} | dict.fromkeys(IMAGES[2:], "fedmed-server")
VERB = {"infer": ["listen"], "train": ["agent"], "server": [], "server-train": []}
MB = 1_000_000


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_says_what_it_is_and_runs_as_nobody(engine, image: str) -> None:
    (found,) = engine("image", "inspect", f"fedmed-{image}").json
    config = found["Config"]
    assert config["User"] == "10001:0"
    assert config["Entrypoint"] == [PROGRAM[image]]
    assert config["Healthcheck"]["Test"] == ["CMD", PROGRAM[image], "health", *VERB[image]]
    assert list(config["Volumes"]) == ["/var/lib/fedmed"]
    environment = dict(line.split("=", 1) for line in config["Env"])
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert environment["FEDMED_FOLDER"] == "/var/lib/fedmed"
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    assert labels["licenses"] == "Apache-2.0" and labels["version"] != "unknown"
    assert labels["revision"] == environment["FEDMED_REVISION"] != "unknown"


@pytest.mark.parametrize("image", IMAGES)
def test_no_layer_holds_the_secret_a_build_setting_or_a_program_with_rights(
    work: Path, engine, image: str
) -> None:
    secret = (work / "secret.pem").read_bytes().strip()
    assert len(secret) > 20
    told = (
        engine("image", "inspect", f"fedmed-{image}").out
        + engine("history", "--no-trunc", f"fedmed-{image}").out
    )
    assert secret.decode() not in told and "PIP_CERT" not in told and "proxy" not in told.lower()
    with tarfile.open(work / "images" / f"fedmed-{image}.tar") as archive:
        for layer in archive:
            if not layer.name.endswith(".tar") or not layer.isfile():
                continue
            stream = archive.extractfile(layer)
            assert stream is not None
            with tarfile.open(fileobj=stream) as files:
                for file in files:
                    assert not file.isfile() or not holds(files.extractfile(file), secret), file.name
                    assert "wheelhouse" not in file.name and not file.name.endswith("secrets/ca.pem"), (
                        file.name
                    )
    looking = ("--entrypoint", "find")
    asked = ("/", "-xdev", "-perm", "/6000", "-type", "f")
    assert engine.ask(f"fedmed-{image}", *asked, options=looking, check=False).out == ""


def holds(stream, wanted: bytes, block: int = 1 << 22) -> bool:
    """Whether a stream has some bytes anywhere."""
    tail = b""
    while piece := stream.read(block):
        if wanted in tail + piece:
            return True
        tail = piece[-len(wanted) :]
    return False


def test_infer_is_slim(engine, work: Path) -> None:
    (found,) = engine("image", "inspect", "fedmed-infer").json
    packed, press = 0, zlib.compressobj(6)
    with (work / "images" / "fedmed-infer.tar").open("rb") as file:
        while piece := file.read(1 << 22):
            packed += len(press.compress(piece))
    packed += len(press.flush())
    print(f"infer: {found['Size'] / MB:.0f} MB, {packed / MB:.0f} MB compressed")
    assert found["Size"] <= 400 * MB and packed <= 150 * MB
    for module in ("torch", "monai", "nvflare", "sqlalchemy", "pytest"):
        said = engine.ask(
            "fedmed-infer", "-c", f"import {module}", options=("--entrypoint", "python3"), check=False
        )
        assert said.code == 1 and "ModuleNotFoundError" in said.err, module


def test_train_has_torch_for_processors_alone(engine) -> None:
    (found,) = engine("image", "inspect", "fedmed-train").json
    print(f"train: {found['Size'] / MB:.0f} MB")
    assert found["Size"] <= 1400 * MB
    code = """
import torch, monai, nvflare
torch.ones(3, requires_grad=True).sum().backward()
print(torch.version.cuda)
"""
    assert engine.ask("fedmed-train", "-c", code, options=("--entrypoint", "python3")).out == "None\n"


def test_the_server_has_no_torch(engine) -> None:
    (found,) = engine("image", "inspect", "fedmed-server").json
    print(f"server: {found['Size'] / MB:.0f} MB")
    said = engine.ask("fedmed-server", "-c", "import torch", options=("--entrypoint", "python3"), check=False)
    assert "ModuleNotFoundError" in said.err


@pytest.mark.parametrize("image", IMAGES)
def test_every_package_has_a_licence_that_is_no_surprise(engine, image: str) -> None:
    code = """
import importlib.metadata as m
for d in m.distributions():
    said = [d.metadata.get("License-Expression") or d.metadata.get("License") or ""]
    said += [line for line in d.metadata.get_all("Classifier") or [] if line.startswith("License")]
    print(d.name, "|", " ".join(said).replace(chr(10), " "))
"""
    listed = engine.ask(f"fedmed-{image}", "-c", code, options=("--entrypoint", "python3")).out.splitlines()
    assert len(listed) > 20
    surprising = [line for line in listed if "GPL" in line and "LGPL" not in line and "Apache" not in line]
    assert surprising == []
