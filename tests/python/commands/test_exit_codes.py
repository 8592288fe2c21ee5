"""What a program says and how it ends where it does not succeed; every refusal at the command line."""

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fedmed_edge.commands.folders import read_site
from fedmed_edge.kernels import thread_count

EDGE, SERVER = "fedmed-edge", "fedmed-server"


def refused(said: Any, code: int, message: str, hint: str | None = None) -> None:
    """Nothing on stdout; on stderr an `error:` line with `message`, then a `hint:` line."""
    assert said.code == code, said.err
    assert said.out == ""
    lines = said.err.splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith("error: "))
    assert message in lines[at]
    assert not lines[at].endswith(".") and "Traceback" not in said.err
    after = [line for line in lines[at + 1 :] if line.startswith("hint: ")]
    if hint is not None:
        assert after and hint in after[0]


def infer_with(f: Any, *inputs: object, model: str = "tiny.onnx", trust: bool = True) -> list[object]:
    given = [*inputs, "-o", f.root / "out", "--model", f.root / model]
    return [*given, "--trust", f.trust] if trust else given


# --- the codes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ([EDGE, "infr"], "no such command `infr`; did you mean `infer`?", "see `fedmed-edge --help`"),
        (
            [EDGE, "contribute", "-C", "x", "--out", "a", "--dry-run"],
            "give one of --out FILE",
            "contribute --help",
        ),
        ([SERVER, "site", "add", "a", "-C", "x"], "give either --request FILE", "site add --help"),
        ([EDGE, "init", "x"], "give --site NAME", "init --help"),
        ([EDGE, "infer"], "missing argument 'INPUTS...'", "see `fedmed-edge infer --help`"),
        ([EDGE, "train", "--out", "x", "--epochs", "0"], "invalid value for '--epochs'", None),
        ([EDGE, "train", "--out", "x", "--epochs", "nan"], "'--epochs': nan is not a finite number", None),
        ([EDGE, "train", "--out", "x", "--epochs", "inf"], "'--epochs': inf is not in the range", None),
        ([EDGE, "budget", "--settle", "nan"], "'--settle': nan is not a finite number", None),
        ([SERVER, "stage", "--epochs", "inf"], "'--epochs': inf is not in the range", None),
        (
            [EDGE, "infer", "x", "-o", "y", "--format", "pdf"],
            "`--format` has pdf, expected some of",
            "infer --help",
        ),
        ([EDGE, "infer", "x", "--modle", "y"], "no such option '--modle'", "infer --help"),
        ([SERVER, "site", "adde"], "no such command 'adde'", "see `fedmed-server site --help`"),
        ([SERVER, "rebuild", "--ridge", "much"], "invalid value for '--ridge'", None),
        (
            [SERVER, "generation", "publish", "--backbone", "a", "--from", "b", "--out", "c"],
            "give either --backbone or --from",
            None,
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_2_wrong_usage(words: list[str], message: str, hint: str | None, kit: ModuleType) -> None:
    said = kit.run(*words)
    refused(said, 2, message, hint)
    assert said.err.startswith("Usage: ")


@pytest.mark.parametrize("words", [[EDGE], [SERVER], [SERVER, "site"]], ids=" ".join)
def test_2_without_a_verb_the_help_is_shown(words: list[str], kit: ModuleType) -> None:
    said = kit.run(*words)
    assert said.code == 2 and said.out == "" and "Commands:" in said.err


def test_3_some_inputs_failed(copied: Any, kit: ModuleType) -> None:
    f = copied
    said = kit.run(EDGE, "infer", *infer_with(f, f.root / "a-data" / "1.png", f.root / "none.png"), "--json")
    assert said.code == 3
    assert [bool(line.count('"error": null')) for line in said.out.splitlines()] == [True, False]
    files = [f.root / name for name in ("c.contribution", "none", "b.contribution")]
    said = kit.run(SERVER, "import", "-C", f.server, *files)
    assert said.code == 3
    assert f"error: {f.root / 'none'}: no such file\n" in said.err
    assert [line.split(": ")[0] for line in said.out.splitlines()] == [str(files[0]), str(files[2])]
    assert {one["site"] for one in f.admin("status")["contributions"]} == {"a", "b", "c"}


def test_3_a_broken_zip_stops_no_other_input(copied: Any, kit: ModuleType) -> None:
    f = copied
    broken = f.root / "s.zip"
    broken.write_bytes(b"PK\x03\x04")
    given = infer_with(f, broken, f.root / "a-data" / "1.png")
    said = kit.run(EDGE, "infer", *given)
    assert said.code == 3 and f"failed  {broken}: zip is broken or cut off (BadZipFile)\n" in said.out
    assert "error: 1 of 2 inputs could not be answered\nhint: " in said.err and "results.csv" in said.err
    said = kit.run(EDGE, "infer", *given, "--format", "json")
    assert said.code == 3 and "results.csv" not in said.err, "no table, no hint at it"


def test_1_all_inputs_failed(copied: Any, kit: ModuleType) -> None:
    f = copied
    said = kit.run(EDGE, "infer", *infer_with(f, f.root / "none.png", f.root / "labels.csv"), "--json")
    assert said.code == 1 and said.out.count('"error": "') == 2
    said = kit.run(SERVER, "import", "-C", f.server, f.root / "none", f.root / "nor-this", "--json")
    assert said.code == 1 and said.json["imported"] == [] and len(said.json["refused"]) == 2


def test_4_nothing_matched(copied: Any, kit: ModuleType) -> None:
    (copied.root / "empty").mkdir()
    said = kit.run(EDGE, "infer", *infer_with(copied, copied.root / "empty"))
    refused(said, 4, "no image found among the inputs, expected DICOM, NIfTI, PNG or JPEG")
    assert "empty: folder holds no image" in said.err


def test_5_not_trusted(copied: Any, kit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    f, image = copied, copied.root / "a-data" / "1.png"
    monkeypatch.chdir(tmp_path)
    said = kit.run(EDGE, "infer", *infer_with(f, image, trust=False))
    refused(
        said, 5, "no key to check its signature against", "as `server_key` in fedmed.toml, or with --trust"
    )
    said = kit.run(EDGE, "infer", *infer_with(f, image, trust=False), "--trust", f.root / "a" / "a.pub")
    refused(said, 5, "tiny.onnx: signed by SHA256:")
    (f.root / "tiny.onnx.sig").unlink()
    refused(kit.run(EDGE, "infer", *infer_with(f, image)), 5, "tiny.onnx.sig: no such file")
    assert not (f.root / "out").exists()


def test_6_the_device_is_not_usable(copied: Any, kit: ModuleType) -> None:
    from fedmed_edge.runtime import installed_flavours

    if "onnxruntime-gpu" in installed_flavours():
        pytest.skip("a GPU may come up here")
    f = copied
    site = ("-C", f.root / "a", "--generation", f.generation)
    image = f.root / "a-data" / "1.png"
    wanted = "runtime: `device` has cuda, expected one that comes up on this machine"
    refused(kit.run(EDGE, "infer", *infer_with(f, image), "--device", "cuda"), 6, wanted, "fedmed-edge[gpu]")
    refused(kit.run(EDGE, "contribute", *site, "--dry-run", "--device", "cuda"), 6, wanted)
    refused(
        kit.run(EDGE, "extract", *site, "--out", f.root / "x", "--device", "tensorrt"),
        6,
        "`device` has tensorrt",
    )


# --- files that are not as they must be ------------------------------------------------------------------


def test_1_no_such_file_or_folder(copied: Any, kit: ModuleType, tmp_path: Path) -> None:
    f, none = copied, tmp_path / "none"
    refused(kit.run(EDGE, "infer", *infer_with(f, none)), 1, "none: no such file or folder")
    refused(kit.run(EDGE, "infer", *infer_with(f, f.root / "a-data", model="none")), 1, "none: no such file")
    refused(kit.run(EDGE, "inspect", none), 1, "none: no such file")
    refused(kit.run(EDGE, "report", tmp_path), 1, "report.json: no such file")
    said = kit.run(EDGE, "train", "-C", none, "--out", none)
    refused(said, 1, "none: has no fedmed.toml", "fedmed-edge init DIR")
    refused(kit.run(SERVER, "status", "-C", none), 1, "none: has no fedmed.toml", "fedmed-server init DIR")
    refused(
        kit.run(EDGE, "contribute", "-C", f.root / "a", "--dry-run"),
        1,
        "a: has no generation to contribute to",
    )
    refused(kit.run(EDGE, "init", none, "--site", "x", "--recipe", tmp_path / "r"), 1, "r: no such file")
    assert not none.exists()
    shutil.rmtree(f.root / "a-data")
    refused(
        kit.run(EDGE, "contribute", "-C", f.root / "a", "--generation", f.generation, "--dry-run"),
        1,
        "a-data: no such folder",
    )


def test_1_an_empty_folder_of_images(copied: Any, kit: ModuleType) -> None:
    shutil.rmtree(copied.root / "a-data")
    (copied.root / "a-data").mkdir()
    said = kit.run(
        EDGE, "contribute", "-C", copied.root / "a", "--generation", copied.generation, "--dry-run"
    )
    refused(said, 1, "a-data: folder is empty, expected labels.csv or one folder of images a class")


def test_1_a_label_that_is_not_in_the_recipe(copied: Any, kit: ModuleType) -> None:
    table = copied.root / "a-data" / "labels.csv"
    table.write_text(table.read_text().replace("3.png,bright", "3.png,brigth"))
    said = kit.run(EDGE, "train", "-C", copied.root / "a", "--from-scratch", "--out", copied.root / "x")
    refused(said, 1, "row 5: label `brigth` is not in the recipe", "did you mean `bright`?")


@pytest.mark.parametrize(
    ("file", "old", "new", "message", "hint"),
    [
        ("a/fedmed.toml", "min_cohort", "min_cohrot", "unknown key `policy.min_cohrot`", "`min_cohort`"),
        ("a/fedmed.toml", "data =", "dta =", "unknown key `dta`", "did you mean `data`?"),
        ("a/recipe.toml", "lift_dim", "lift_width", "unknown key `lift.lift_width`", "`lift_dim`"),
        ("a/recipe.toml", "[lift]", "[lift", "recipe.toml: not a readable TOML file", None),
        ("a/recipe.toml", '"residual_encoder"', "7", "`backbone.network`", None),
    ],
)
def test_1_a_mistake_in_a_toml_file(
    file: str, old: str, new: str, message: str, hint: str | None, copied: Any, kit: ModuleType
) -> None:
    path = copied.root / file
    path.write_text(path.read_text().replace(old, new))
    said = kit.run(EDGE, "train", "-C", copied.root / "a", "--from-scratch", "--out", copied.root / "x")
    refused(said, 1, message, hint)
    assert str(path) in said.err


def test_1_a_modality_that_the_recipe_does_not_take(copied: Any, kit: ModuleType) -> None:
    recipe = copied.root / "a" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('kind = "', 'modality = ["MR"]\nkind = "'))
    write_dicom(copied.root / "a-data" / "0.png", "DX")
    # one patient is another: not to be told of it first
    site = ("-C", copied.root / "a", "--set", "policy.update_patients=1", "--generation", copied.generation)
    refused(kit.run(EDGE, "contribute", *site, "--dry-run"), 1, "0.png: `modality` has DX, expected MR")


def write_dicom(path: Path, modality: str) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    ds, pixels = Dataset(), np.full((40, 36), 60, np.uint8)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = ComputedRadiographyImageStorage, generate_uid(), modality
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *pixels.shape, 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.PixelData = 7, 0, pixels.tobytes()
    ds["PixelData"].VR = "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
        ds.SOPClassUID,
        ds.SOPInstanceUID,
    )
    ds.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("tiny.generation", "generation"),
        ("a.contribution", "contribution"),
        ("a.backbone", "backbone"),
        ("tiny.onnx.sig", "signature"),
        ("tiny.toml", "recipe"),
        ("server/server.pub", "public key"),
    ],
)
def test_1_another_file_in_the_place_of_a_model(file: str, kind: str, world: Any, kit: ModuleType) -> None:
    said = kit.run(EDGE, "infer", *infer_with(world, world.root / "a-data" / "1.png", model=file))
    refused(said, 1, f"{file}: is a {kind}, expected an exported model", "`fedmed-server export` writes one")
    assert not (world.root / "out").exists()


# --- contributions that the server does not take ---------------------------------------------------------


def take(f: Any, kit: ModuleType, path: Path, code: int, message: str, hint: str | None = None) -> None:
    """`import` refuses a file and nothing changes."""
    before = f.admin("status")
    refused(kit.run(SERVER, "import", "-C", f.server, path), code, message, hint)
    assert f.admin("status") == before and before["faults"] == []


def test_1_a_contribution_of_another_generation(copied: Any, kit: ModuleType) -> None:
    f = copied
    f.ask(SERVER, "init", f.root / "other")
    given = ("-C", f.root / "other", "--recipe", f.recipe, "--seed", 1, "--out", f.root / "other.generation")
    f.ask(SERVER, "generation", "publish", *given)
    f.generation = f.root / "other.generation"
    shutil.copyfile(f.root / "other" / "server.pub", f.root / "c" / "server.pub")
    path = f.contribute("c", file="x")
    take(f, kit, path, 1, "x: `generation` has ", "pull the newest generation")


def test_5_a_changed_or_unsigned_contribution(copied: Any, kit: ModuleType) -> None:
    f, path = copied, copied.root / "c.contribution"
    content = path.read_bytes()
    # the last tensor's last number; checked before anything else is believed
    path.write_bytes(content[:-8] + np.float64(np.frombuffer(content[-8:])[0] + 1).tobytes())
    take(f, kit, path, 5, "c.contribution: wrong signature: changed after it was signed")
    f.site("c", "extract", "--generation", f.generation, "--out", f.root / "x")
    take(f, kit, f.root / "x", 5, "x: has no signature", "`fedmed-edge contribute` signs")


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_1_a_file_that_is_cut_off(kept: int, copied: Any, kit: ModuleType) -> None:
    f, path = copied, copied.root / "c.contribution"
    path.write_bytes(path.read_bytes()[:kept])
    take(f, kit, path, 1, "c.contribution: cut off: ")
    f.generation.write_bytes(f.generation.read_bytes()[:kept])
    said = kit.run(EDGE, "contribute", "-C", f.root / "a", "--generation", f.generation, "--dry-run")
    refused(said, 5, "tiny.generation: wrong signature: changed after it was signed")
    model = f.root / "tiny.onnx"
    model.write_bytes(model.read_bytes()[:kept])
    refused(kit.run(EDGE, "infer", *infer_with(f, f.root / "a-data")), 5, "tiny.onnx: wrong signature")


@pytest.mark.parametrize("verb", ["contribute", "extract", "train"])
def test_5_a_generation_that_the_server_did_not_sign(verb: str, copied: Any, kit: ModuleType) -> None:
    f = copied
    words = (verb, "-C", f.root / "a", "--generation", f.generation, "--out", f.root / "x")
    signature = f.generation.with_name(f.generation.name + ".sig")
    kept = signature.read_bytes()
    signature.unlink()
    refused(kit.run(EDGE, *words), 5, "tiny.generation.sig: no such file", "without its signature")
    signature.write_bytes(kept)
    shutil.copyfile(f.root / "b" / "b.pub", f.root / "a" / "server.pub")
    refused(kit.run(EDGE, *words), 5, "tiny.generation: signed by SHA256:")
    settings = f.root / "a" / "fedmed.toml"
    settings.write_text(settings.read_text().replace("server_key", "# server_key"))
    refused(kit.run(EDGE, *words), 5, "no key to check its signature against", "`server_key` in fedmed.toml")
    assert not (f.root / "x").exists()


def test_1_an_older_sequence(copied: Any, kit: ModuleType) -> None:
    f = copied
    f.admin("import", f.root / "c.contribution")
    for name in ("sequence", "releases.jsonl"):  # as in a folder made anew with an old key
        (f.root / "c" / name).unlink()
    table = f.root / "c-data" / "labels.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-8]) + "\n")
    path = f.contribute("c", file="x")
    take(f, kit, path, 1, "x: `sequence` has 1, expected more than 1 of site `c`", "older contribution")


def test_5_an_unknown_signer_or_another_site(copied: Any, kit: ModuleType) -> None:
    f = copied
    given = ("--site", "stranger", "--data", f.root / "c-data", "--server-key", f.trust)
    f.ask(EDGE, "init", f.root / "stranger", *given)
    shutil.copyfile(f.recipe, f.root / "stranger" / "recipe.toml")
    text = (f.root / "c" / "fedmed.toml").read_text()
    (f.root / "stranger" / "fedmed.toml").write_text(text.replace('site = "c"', 'site = "stranger"'))
    path = f.contribute("stranger", file="x")
    take(f, kit, path, 5, "x: unknown signer SHA256:", "once its fingerprint is confirmed")
    shutil.copyfile(f.root / "b" / "site.key", f.root / "stranger" / "site.key")
    path = f.contribute("stranger", file="y")
    take(f, kit, path, 5, "y: `site` has stranger, expected b, which its key is enrolled under")


def test_1_a_contribution_that_was_replaced_makes_no_generation(copied: Any, kit: ModuleType) -> None:
    f = copied
    given = ("-C", f.server, "--from", f.root / "a.contribution", "--out", f.root / "x")
    said = kit.run(SERVER, "generation", "publish", *given)
    refused(said, 1, "a.contribution: contributions without weights, under a generation that is no draft")
    shutil.copyfile(f.root / "a.contribution", f.root / "older")
    table = f.root / "a-data" / "labels.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-8]) + "\n")
    f.join("a")
    given = ("-C", f.server, "--from", f.root / "older", "--out", f.root / "x")
    said = kit.run(SERVER, "generation", "publish", *given)
    refused(said, 1, "older: is not what site `a` handed over last for tiny", "newest contribution")


def test_1_a_recipe_takes_no_place_by_a_command_that_fails(copied: Any, kit: ModuleType) -> None:
    f, other = copied, copied.root / "other.toml"
    other.write_text(f.recipe.read_text().replace("classes = [", 'classes = ["third", '))
    publish = ("generation", "publish", "-C", f.server, "--recipe", other, "--out", f.root / "x")
    for given in (("--backbone", f.root / "none"), ("--from", f.root / "none")):
        refused(kit.run(SERVER, *publish, *given), 1, "none: no such file")
    model = f.admin("export", "--out", f.root / "m.onnx")["out"]
    take = ("generation", "import", "-C", f.server, model, "--recipe", other, "--trust", f.trust)
    refused(kit.run(SERVER, *take), 1, "m.onnx: is an exported model, expected a generation")
    assert f.admin("rebuild")["sites"]
    f.ask(SERVER, *publish)
    said = kit.run(SERVER, "rebuild", "-C", f.server)
    refused(said, 1, "no site contributed under the newest recipe of tiny", "makes that the newest again")
    f.admin("generation", "publish", "--recipe", f.recipe, "--out", f.root / "x")
    assert f.admin("rebuild")["sites"]


def test_1_a_recipe_takes_no_place_by_contributions_that_fail(copied: Any, kit: ModuleType) -> None:
    f, other = copied, copied.root / "other.toml"
    publish = ("generation", "publish", "-C", f.server, "--recipe", other, "--out", f.root / "x")
    f.admin("site", "revoke", "c")
    for old, new in (("pixel_stride = 4", "pixel_stride = 8"), ('"tiny"', '"new"')):
        other.write_text(f.recipe.read_text().replace(old, new))
        said = kit.run(SERVER, *publish, "--from", f.root / "c.contribution")
        refused(said, 5, "c.contribution: site `c` was revoked")
        said = kit.run(SERVER, *publish, "--from", f.root / "a.contribution")
        refused(said, 1, "a.contribution: is not what site `a` handed over last for ")
        assert f.admin("rebuild")["sites"]  # of the only task, under the recipe of before


def test_contributions_come_with_the_recipe_that_they_are_under(copied: Any, kit: ModuleType) -> None:
    f, other = copied, copied.root / "other.toml"
    other.write_text(f.recipe.read_text().replace("pixel_stride = 4", "pixel_stride = 8"))
    f.generation = f.root / "start.generation"
    under = ("--set", f"recipe={other}")
    files = [f.contribute(name, *under, file=f"{name}.new") for name in "ab"]
    refused(kit.run(SERVER, "import", "-C", f.server, files[0]), 1, "a.new: `recipe` has ")
    told = f.publish("new.generation", "--recipe", other, "--from", files[0], "--from", files[1])
    assert not told["draft"]
    f.admin("import", *(f.contribute(name, *under) for name in "ab"))
    assert f.admin("rebuild")["sites"] == ["a", "b"]


# --- settings --------------------------------------------------------------------------------------------


def test_infer_follows_the_settings_of_the_folder_it_runs_in(
    copied: Any, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    f = copied
    monkeypatch.chdir(f.root / "a")
    said = kit.run(EDGE, "infer", *infer_with(f, f.root / "a-data" / "1.png", trust=False))
    assert said.code == 0, said.err
    settings = f.root / "a" / "fedmed.toml"
    settings.write_text(settings.read_text().replace('device = "auto"', 'device = "tensorrt"'))
    said = kit.run(EDGE, "infer", *infer_with(f, f.root / "a-data" / "1.png", trust=False))
    refused(said, 6, "`device` has tensorrt")
    said = kit.run(EDGE, "infer", *infer_with(f, f.root / "a-data" / "1.png", trust=False), "--device", "cpu")
    assert said.code == 0, said.err
    monkeypatch.chdir(f.root)
    monkeypatch.setenv("FEDMED_SERVER_KEY", str(f.trust))
    monkeypatch.setenv("FEDMED_DEVICE", "tensorrt")
    said = kit.run(EDGE, "infer", *infer_with(f, f.root / "a-data" / "1.png", trust=False))
    refused(said, 6, "`device` has tensorrt")


def test_threads_of_the_settings_reach_the_kernels(copied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = copied.root / "a" / "fedmed.toml"
    settings.write_text("threads = 3\n" + settings.read_text())
    monkeypatch.setenv("FEDMED_THREADS", "2")
    assert read_site(copied.root / "a").threads == 2 and thread_count() == 2
    monkeypatch.delenv("FEDMED_THREADS")
    assert read_site(copied.root / "a").threads == 3 and thread_count() == 3


def test_init_writes_over_nothing(copied: Any, kit: ModuleType) -> None:
    key = (copied.root / "a" / "site.key").read_bytes()
    refused(kit.run(EDGE, "init", copied.root / "a", "--site", "a"), 1, "fedmed.toml: is there already")
    refused(kit.run(SERVER, "init", copied.server), 1, "fedmed.toml: is there already")
    assert (copied.root / "a" / "site.key").read_bytes() == key
    refused(kit.run(EDGE, "init", copied.root / "x", "--site", "a b"), 1, "`site`")
    assert not (copied.root / "x").exists()


def test_an_init_that_was_cut_off_takes_up_the_key_it_had_made(copied: Any, kit: ModuleType) -> None:
    for program, folder, given in (
        (EDGE, copied.root / "a", ["--site", "a", "--data", copied.root / "a-data"]),
        (SERVER, copied.server, []),
    ):
        (folder / "fedmed.toml").unlink()
        keys = {path.name: path.read_bytes() for path in folder.glob("*.key")}
        said = kit.run(program, "init", folder, *given, "--json")
        assert said.code == 0, said.err
        assert {path.name: path.read_bytes() for path in folder.glob("*.key")} == keys
    assert {one["site"] for one in copied.admin("status")["contributions"]} == {"a", "b"}
