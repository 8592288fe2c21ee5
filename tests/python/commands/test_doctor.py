"""`fedmed-edge doctor`: every check, where all is well and where it is not."""

import hashlib
import os
import re
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fedmed_edge.commands import checks
from fedmed_edge.config import SiteConfig, read_config
from fedmed_edge.errors import DeviceError, InputError
from fedmed_edge.federation.inbox import Arrived
from fedmed_edge.federation.records import write_record
from fedmed_edge.inference.model_folder import ModelFolder

SITE = ["settings", "folder", "recipe", "data", "generation", "policy", "key", "server key", "model"]
MACHINE = ["runtime", "device", "devices", "codecs", "torch", "disk", "clock", "processor"]


@pytest.fixture
def site(copied: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a site to which nothing is wanting."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # other programs may have left something in ours
    folder: Path = copied.root / "a"
    for end in ("", ".sig"):
        copied.generation.with_name(copied.generation.name + end).rename(
            folder / f"generation.safetensors{end}"
        )
    return folder


def look(site: Path, name: str) -> checks.Check:
    if name == "settings":
        return next(checks.examine(site))
    looks = checks.site_looks(site) | checks.MACHINE_LOOKS
    return checks.guarded(name, looks[name], read_config(SiteConfig, site))


def test_a_generation_that_came_by_the_agent_counts(site: Path) -> None:
    named, inbox = site / "generation.safetensors", site / "inbox"
    digest = hashlib.sha256(named.read_bytes()).hexdigest()
    inbox.mkdir()
    for end in ("", ".sig"):
        Path(f"{named}{end}").rename(inbox / f"{digest}.generation{end}")
    assert {one.name: one for one in checks.examine(site)}["generation"].level == "warning"
    arrived = Arrived(kind="generation", digest=digest, bytes=1, signature="", came=0.0)
    write_record(inbox / f"{digest}.json", arrived)
    found = {one.name: one for one in checks.examine(site)}["generation"]
    assert found.level == "ok" and digest[:12] in found.found


def test_a_sound_site(site: Path, kit: ModuleType) -> None:
    said = kit.run("fedmed-edge", "doctor", "-C", site, "--json")
    document = said.json
    assert said.code == 0 and (document["faults"], document["warnings"]) == (0, 0), document
    assert [check["name"] for check in document["checks"]] == SITE + MACHINE
    assert {check["level"] for check in document["checks"]} == {"ok"}
    found = {check["name"]: check["found"] for check in document["checks"]}
    assert (
        found["data"] == ("20 training and 4 test images; training patients: dark 10, bright 10")
        and found["recipe"] == "tiny, classification of dark, bright"
    )
    assert found["generation"].startswith("generation ") and "rows of 57" in found["generation"]
    assert found["key"].startswith("SHA256:") and found["key"].endswith("mode 0600")
    assert "telemetry off" in found["runtime"] and found["device"] == "asked for auto, cpu came up"
    lines = kit.run("fedmed-edge", "doctor", "-C", site).out.splitlines()
    assert len(lines) == len(SITE + MACHINE) + 1 and lines[-1] == "faults: 0, warnings: 0"
    assert all(line.startswith("ok       ") for line in lines[:-1])


def test_a_fault_is_told_with_what_to_do_and_ends_in_exit_code_1(site: Path, kit: ModuleType) -> None:
    (site / "site.key").chmod(0o644)
    said = kit.run("fedmed-edge", "doctor", "-C", site)
    lines = said.out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("fault    key "))
    assert said.code == 1 and lines[-1] == "faults: 1, warnings: 0"
    assert "site.key: `mode` has 0644, expected 0600" in lines[at]
    assert lines[at + 1].strip() == f"hint: chmod 600 {site / 'site.key'}"


def test_a_folder_without_settings_still_has_its_machine_checked(tmp_path: Path, kit: ModuleType) -> None:
    said = kit.run("fedmed-edge", "doctor", "-C", tmp_path / "none", "--json")
    assert said.code == 1
    first, *others = said.json["checks"]
    assert first["level"] == "fault" and first["found"].endswith("none: has no fedmed.toml")
    assert [check["name"] for check in others] == MACHINE


@pytest.mark.parametrize(
    ("name", "break_it", "level", "found", "hint"),
    [
        ("recipe", lambda s: (s / "recipe.toml").unlink(), "fault", "recipe.toml: no such file", None),
        ("key", lambda s: (s / "site.key").unlink(), "fault", "site.key: no such file", None),
        ("key", lambda s: (s / "site.key").write_text("x"), "fault", "not a private key in PEM form", None),
        (
            "server key",
            lambda s: (s / "server.pub").write_bytes((s / "site.key").read_bytes()),
            "fault",
            "server.pub: is a private key, expected a public one",
            "never travel",
        ),
        ("generation", lambda s: (s / "generation.safetensors").unlink(), "warning", "not here yet", "admin"),
        (
            "generation",
            lambda s: (s / "generation.safetensors").write_bytes(b"x"),
            "fault",
            "generation.safetensors: wrong signature: changed after it was signed",
            None,
        ),
        (
            "generation",
            lambda s: (s / "generation.safetensors.sig").unlink(),
            "fault",
            "generation.safetensors.sig: no such file",
            "a file without its signature is not trusted",
        ),
        (
            "generation",
            lambda s: edit(s / "fedmed.toml", "server_key", "# server_key"),
            "fault",
            "generation.safetensors: no key to check its signature against",
            "`server_key` in fedmed.toml",
        ),
        (
            "generation",
            lambda s: edit(s / "recipe.toml", "[32, 32]", "[64, 64]"),
            "fault",
            "`size` has (64, 64), expected the generation's (32, 32)",
            "state the generation's `channels` and `size` in the recipe",
        ),
        ("data", lambda s: edit(s / "fedmed.toml", "-data", "-dta"), "fault", "a-dta: no such folder", None),
        (
            "data",
            lambda s: (s.parent / "a-data" / "0.png").write_bytes(b"x"),
            "fault",
            "0.png: ",
            None,
        ),
        (
            "data",
            lambda s: edit(s / "fedmed.toml", "min_cohort = 2", "min_cohort = 11"),
            "fault",
            "dark 10, bright 10",
            "nothing reaches `min_cohort` 11",
        ),
        (
            "data",
            lambda s: edit(s.parent / "a-data" / "labels.csv", "1.png,bright", "1.png,dark"),
            "warning",
            "dark 1",
            "and left out: bright",
        ),
        (
            "settings",
            lambda s: edit(s / "fedmed.toml", "device", "devise"),
            "fault",
            "unknown key `devise`",
            "`device`",
        ),
    ],
)
def test_what_is_wrong_with_a_site(
    name: str, break_it: Any, level: str, found: str, hint: str | None, site: Path
) -> None:
    if found == "dark 1":
        edit(site / "fedmed.toml", "min_cohort = 2", "min_cohort = 10")
    break_it(site)
    check = look(site, name)
    assert check.level == level and found in check.found
    assert check.hint is None if hint is None else hint in (check.hint or "")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_policy_check_says_of_the_width_what_contribute_says(site: Path, kit: ModuleType) -> None:
    """Rows of 57: the 171 patients of a class are enough in one Gram, and not in five folds."""
    edit(site / "fedmed.toml", 'width_rule = "off"', 'width_rule = "refuse"')
    data = site.parent / "a-data"
    with (data / "labels.csv").open("a") as table:
        for index in range(100, 422):
            (data / f"{index}.png").hardlink_to(data / f"{index % 2}.png")
            table.write(f"{index}.png,{('dark', 'bright')[index % 2]},,p{index},train\n")

    def both(parts: str, min_cohort: int) -> tuple[checks.Check, Any]:
        text = (site / "fedmed.toml").read_text()
        text = re.sub(r"(?m)^min_cohort = .*$", f"min_cohort = {min_cohort}", text)
        (site / "fedmed.toml").write_text(re.sub(r"(?m)^parts = .*$", f"parts = {parts}", text))
        out = ("--out", site / "made")
        return look(site, "policy"), kit.run("fedmed-edge", "contribute", "-C", site, *out)

    for parts, min_cohort, width, patients in (
        ('["classes"]', 2, 57, 34),
        ('["classes"]', 100, 57, None),  # one Gram a class
        ('["images", "channels"]', 2, 17, None),
        ('["channels"]', 2, 0, None),
    ):
        check, said = both(parts, min_cohort)
        if patients is None:
            assert check.level == "ok" and said.code == 0, (check, said.err)
            continue
        told = f"width {width}, expected at most a third of its {patients} patients"
        assert check.level == "fault" and told in (check.hint or ""), check
        assert said.code != 0 and told in said.err
    edit(site / "fedmed.toml", "min_cohort = 2", "min_cohort = 1000")
    assert look(site, "policy").level == "ok"  # nothing leaves, as the data's check says


def test_unlabelled_images_may_be_enough(site: Path) -> None:
    table = site.parent / "a-data" / "labels.csv"
    table.write_text(table.read_text().replace(",dark,", ",,").replace(",bright,", ",,"))
    check = look(site, "data")
    assert check.level == "warning" and "dark 0, bright 0" in check.found


def test_what_a_table_is_warned_of_is_told_once(site: Path, kit: ModuleType) -> None:
    table = site.parent / "a-data" / "labels.csv"
    table.write_text(table.read_text().replace(",dark,", ",,0.png").replace(",bright,", ",,0.png"))
    said = kit.run("fedmed-edge", "doctor", "-C", site)
    assert said.err.count("rows have a `mask` and none a `label`") == 1


def test_a_folder_that_nothing_can_be_written_to(site: Path) -> None:
    kernels = Path("/proc/self")  # not even root makes a file there
    folder = checks.site_looks(kernels)["folder"]
    check = checks.guarded("folder", folder, read_config(SiteConfig, site))
    assert check.level == "fault" and check.found.startswith("/proc/self: cannot be written: ")
    assert check.hint is not None and "is writable" in check.hint


def test_no_server_key(site: Path) -> None:
    edit(site / "fedmed.toml", 'server_key = "server.pub"\n', "")
    assert look(site, "server key").level == "warning"


def test_the_runtime(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.setattr(checks, "open_session", lambda *_, **__: None)
    assert look(site, "runtime").found == "runtime: telemetry is on"
    monkeypatch.undo()
    both = ("onnxruntime", "onnxruntime-gpu")
    monkeypatch.setattr("fedmed_edge.runtime.installed_flavours", lambda: both)
    check = look(site, "runtime")
    assert check.level == "fault" and "onnxruntime and onnxruntime-gpu are both installed" in check.found
    assert check.hint and check.hint.startswith("pip uninstall onnxruntime onnxruntime-gpu")
    monkeypatch.undo()

    def none(*_: object, **__: object) -> None:
        raise InputError("runtime: onnxruntime is not installed, expected one flavour of it", hint="pip")

    monkeypatch.setattr(checks, "open_session", none)
    assert look(site, "runtime").level == "fault"


def test_the_device(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "installed_flavours", lambda: ("onnxruntime-gpu",))
    if look(site, "device").found.endswith("cpu came up"):
        assert look(site, "device").level == "warning"

    def not_there(*_: object, **__: object) -> None:
        raise DeviceError("runtime: `device` has cuda, expected one that comes up on this machine")

    monkeypatch.setattr(checks, "open_session", not_there)
    assert look(site, "device").level == "fault"


def test_torch_is_no_must(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda _: None)
    check = look(site, "torch")
    assert check.level == "ok" and "not installed; only `train` and `demo` need it" in check.found


def test_the_disk(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LEAST_DISK", 1 << 62)
    check = look(site, "disk")
    assert check.level == "warning" and "GiB free at" in check.found and "2 GiB" in (check.hint or "")


def test_the_clock(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = time.time() + 3600
    os.utime(site / "recipe.toml", (ahead, ahead))
    check = look(site, "clock")
    assert check.level == "warning" and "recipe.toml is from the future" in check.found
    monkeypatch.setattr(checks, "RELEASE_YEAR", 9999)
    assert look(site, "clock").level == "fault"


def test_the_processor(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_THREADS", "256")
    assert look(site, "processor").level == "warning"
    monkeypatch.setenv("FEDMED_THREADS", "many")
    assert look(site, "settings").found.startswith("FEDMED_THREADS: `threads` has ")


def test_the_active_model_is_verified(site: Path, copied: Any, kit: ModuleType) -> None:
    assert look(site, "model").found == "none is active"
    kit.run("fedmed-edge", "model", "add", "-C", site, copied.root / "tiny.onnx")
    assert look(site, "model").found == "none is active; 1 waits for `fedmed-edge model activate`"
    kit.run("fedmed-edge", "model", "activate", "-C", site)
    found = look(site, "model")
    assert found.level == "ok" and "signature and sample right, not measured with" in found.found
    entry = ModelFolder(site).active()
    ModelFolder(site).mark_withdrawn([entry.model])
    withdrawn = look(site, "model")
    assert withdrawn.level == "fault" and "was withdrawn" in withdrawn.found
    (site / "models" / "withdrawn.json").unlink()
    entry.path.write_bytes(entry.path.read_bytes() + b" ")
    damaged = look(site, "model")
    assert damaged.level == "fault" and "is not the file that was added as" in damaged.found


def test_devices_and_codecs_are_tried(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for devices, said in (
        ({"cpu": "", "cuda": "no driver"}, "cpu comes up; not here: cuda"),
        ({"cpu": "", "cuda": ""}, "cpu, cuda come up"),
    ):
        monkeypatch.setattr("fedmed_edge.commands.inference_checks.usable_devices", lambda d=devices: d)
        found = look(site, "devices")
        assert (found.level, found.found) == ("ok", said)
    monkeypatch.undo()
    assert look(site, "devices").found.startswith("cpu")
    assert look(site, "codecs").level == "ok"
    monkeypatch.setattr("fedmed_edge.images.dicom_pixels.missing_codecs", lambda: ["JPEG 2000"])
    missing = look(site, "codecs")
    assert (missing.level, missing.found) == ("warning", "not readable: JPEG 2000")


def test_what_another_program_left_of_telemetry_is_told(site: Path) -> None:
    assert look(site, "runtime").level == "ok"
    checks.EVENTS.expanduser().mkdir(parents=True)
    told = look(site, "runtime")
    assert told.level == "warning" and "another program had it on" in told.found


def test_a_disk_below_the_watermark_of_listen_is_told(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=4 * 10**9))
    assert look(site, "disk").level == "ok"
    (site / "listen").mkdir()
    told = look(site, "disk")
    assert told.level == "warning" and "below `watermark_gb` 5" in (told.hint or "")


def test_the_disk_of_listen_may_be_another(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = site.parent / "node"
    node.mkdir()
    with (site / "fedmed.toml").open("a") as settings:
        settings.write(f'\n[listen]\nfolder = "{node}"\n')
    full = {node: 4 * 10**9}
    monkeypatch.setattr("shutil.disk_usage", lambda at: SimpleNamespace(free=full.get(at, 9 * 10**9)))
    told = look(site, "disk")
    assert told.level == "warning" and told.found == f"3.7 GiB free at {node}"
