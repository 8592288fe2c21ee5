"""What the server's admin is told: init, sites, what the store holds, other files, a withdrawal."""

import importlib
import io
import shutil
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from fedmed_edge.commands.server import server
from fedmed_edge.errors import InputError
from fedmed_edge.features.weights import read_backbone, write_backbone
from fedmed_edge.federation.parts import Assembly
from fedmed_edge.recipe import read_recipe
from fedmed_edge.store.store import Store

EDGE, SERVER = "fedmed-edge", "fedmed-server"


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


def refused(said: Any, code: int, message: str, hint: str) -> None:
    assert said.code == code and said.out == "", said.err
    assert f"error: {message}" in said.err, said.err
    assert f"hint: {hint}" in said.err, said.err


# --- init ------------------------------------------------------------------------------------------------


def test_an_empty_store_says_what_comes_next(tmp_path: Path, kit: ModuleType) -> None:
    made = kit.run(SERVER, "init", tmp_path / "server")
    assert made.out.startswith(f"{tmp_path / 'server'}: ready\n")
    lines = kit.run(SERVER, "status", "-C", tmp_path / "server").out.splitlines()
    assert [line.split(";")[0] for line in lines] == [
        "store: not encrypted",
        "sites: none yet",
        "generations: none yet",
        "contributions: none yet",
        "models: none yet",
        "all sound: every row, file, digest and signature was checked",
    ]
    assert "`fedmed-server site add NAME --key FILE` enrols one" in lines[1]
    assert "no site is enrolled yet" in kit.run(SERVER, "site", "list", "-C", tmp_path / "server").out


def test_a_store_is_encrypted_and_made_plain_again(
    tmp_path: Path, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, path, other = tmp_path / "server", tmp_path / "store.key", tmp_path / "other.key"
    made = kit.run(SERVER, "init", server, "--store-key", path, "--json").json["store_key"]
    assert path.stat().st_mode & 0o777 == 0o600
    secret = path.read_text().splitlines()[1]
    assert kit.run(SERVER, "status", "-C", server).out.startswith(f"store: encrypted with key {made}\n")

    new = kit.run(SERVER, "store", "key", other, "--json").json["key"]
    refused(kit.run(SERVER, "store", "key", other), 1, f"{other}: is a private key", "choose another file")
    monkeypatch.setenv("FEDMED_STORE_KEY", str(other))
    expected = f"store: `store_key` has key {new} of {other}, expected {made}, which the store is"
    refused(kit.run(SERVER, "status", "-C", server), 1, expected, "name that key's file, or change the key")
    done = kit.run(SERVER, "store", "encrypt", "-C", server, "--old-key", path)
    assert done.out == f"{server}: 0 files are encrypted with key {new}, 0 written anew\n"
    assert kit.run(SERVER, "status", "-C", server, "--json").json["encryption"]["key"] == new
    assert kit.run(SERVER, "store", "decrypt", "-C", server).out.startswith(f"{server}: 0 files are plain")
    monkeypatch.delenv("FEDMED_STORE_KEY")

    settings = server / "fedmed.toml"
    lines = settings.read_text().splitlines(keepends=True)
    settings.write_text("".join(line for line in lines if not line.startswith("store_key")))
    assert kit.run(SERVER, "status", "-C", server).out.startswith("store: not encrypted\n")
    wanted = f"{settings}: has no `store_key`, expected the file of a store key"
    refused(
        kit.run(SERVER, "store", "encrypt", "-C", server),
        1,
        wanted,
        "`fedmed-server store key FILE` makes one",
    )
    missing = tmp_path / "missing.key"
    said = kit.run(SERVER, "status", "-C", server, "--set", f"store_key={missing}")
    refused(said, 1, f"`store_key`: {missing}: no such file", "put the store's key back")
    kept = [one for one in server.rglob("*") if one.is_file()]
    assert kept and not any(secret.encode() in one.read_bytes() for one in kept)


def test_init_does_not_go_into_a_folder_that_is_used(tmp_path: Path, kit: ModuleType) -> None:
    server, site, other = (tmp_path / name for name in ("server", "site", "other"))
    assert kit.run(SERVER, "init", server).code == 0
    assert kit.run(EDGE, "init", site, "--site", "a").code == 0
    other.mkdir()
    (other / "labels.csv").write_text("image,label\n")
    another = "choose another folder"
    settings = "fedmed.toml: is there already, of a"
    refused(kit.run(SERVER, "init", server), 1, f"{server}/{settings} server", another)
    refused(kit.run(SERVER, "init", site), 1, f"{site}/{settings} hospital", another)
    holds = f"{other}: holds `labels.csv`, expected a new or empty folder"
    refused(kit.run(SERVER, "init", other), 1, holds, another)
    assert [path.name for path in other.iterdir()] == ["labels.csv"]


def test_init_takes_up_a_store_with_its_key_and_refuses_one_without(copied: Any, kit: ModuleType) -> None:
    server = copied.server
    (server / "fedmed.toml").unlink()
    key = (server / "server.key").rename(copied.root / "server.key")
    without = f"{server}: has a store and no server.key"
    refused(kit.run(SERVER, "init", server), 1, without, "put the server's server.key back")
    assert not (server / "server.key").exists()
    key.rename(server / "server.key")
    made = kit.run(SERVER, "init", server)
    assert f"{server}: ready, with the store that was there: 4 contributions\n" in made.out, made.err


def test_init_makes_no_store_key_beside_a_store(tmp_path: Path, kit: ModuleType) -> None:
    server, key = tmp_path / "server", tmp_path / "keys" / "store.key"
    key.parent.mkdir()
    made = kit.run(SERVER, "init", server, "--store-key", key, "--json").json["store_key"]
    (server / "fedmed.toml").unlink()
    away = key.rename(tmp_path / "not mounted")
    said = kit.run(SERVER, "init", server, "--store-key", key)
    refused(said, 1, f"`store_key`: {key}: no such file", "put the store's key back")
    assert not key.exists()
    away.rename(key)
    assert kit.run(SERVER, "init", server, "--store-key", key, "--json").json["store_key"] == made


@pytest.mark.parametrize("room", [50, 1000, 10_000])
def test_init_on_a_full_disk_says_so_and_goes_on(room: int, tmp_path: Path, kit: ModuleType) -> None:
    said = kit.run_alone(SERVER, "init", tmp_path / "server", room=room)
    assert said.code == 1 and "error: " in said.err and "cannot be written: " in said.err
    assert "hint: " in said.err and "room" in said.err and "Traceback" not in said.err
    assert not list(tmp_path.rglob(".part-*"))
    assert kit.run(SERVER, "init", tmp_path / "server").code == 0
    assert "all sound" in kit.run(SERVER, "status", "-C", tmp_path / "server").out


def test_a_folder_of_the_other_program_is_called_so(copied: Any, kit: ModuleType) -> None:
    site, server = copied.root / "a", copied.server
    for verb in (["status"], ["rebuild"], ["withdraw", "a", "--yes"]):
        said = kit.run(SERVER, *verb, "-C", site)
        refused(
            said, 1, f"{site}: is the folder of a hospital, expected a server's", "name the server's folder"
        )
    said = kit.run(EDGE, "extract", "-C", server, "--out", copied.root / "x")
    refused(
        said, 1, f"{server}: is the folder of a server, expected a hospital's", "name the hospital's folder"
    )


# --- what the store holds --------------------------------------------------------------------------------


def test_status_tells_what_is_held_by_site_and_task(copied: Any, kit: ModuleType) -> None:
    f = copied
    table = f.root / "a-data" / "labels.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-8]) + "\n")
    f.join("a")
    own = f.root / "b.backbone"
    write_backbone(
        own, read_backbone(f.root / "a.backbone").weights, read_recipe(f.recipe), trained_by=("b",)
    )
    f.admin("import", f.contribute("b", "--weights", own, file="w"))
    f.admin("site", "revoke", "c")
    said = kit.run(SERVER, "status", "-C", f.server)
    lines = said.out.splitlines()
    held = [line.split() for line in lines if line.startswith("contribution ")]
    complete, draft = (one[:12] for one in f.admin("status")["generations"])
    assert [(*row[2:5], row[6], row[8], row[-1]) for row in held] == [
        ("a", "tiny", "sums", "1", draft, "current"),
        ("a", "tiny", "sums", "2", complete, "superseded"),
        ("a", "tiny", "sums", "3", complete, "current"),
        ("b", "tiny", "sums", "1", draft, "current"),
        ("b", "tiny", "sums", "2", complete, "current"),
        ("b", "tiny", "weights", "3", complete, "current"),
    ]
    sites = [line.split(None, 2) for line in lines if line.startswith("site ")]
    assert [(name, what) for _, name, what in sites] == [
        ("a", "3 contributions"),
        ("b", "3 contributions"),
        ("c", "nothing contributed, revoked"),
    ]
    assert f"generation {complete}  classification, rows of " in said.out
    assert any(line.startswith(f"generation {complete}") and line.endswith(", newest") for line in lines)
    assert f"generation {draft}  classification, draft\n" in said.out
    assert any(line.startswith("model ") and line.endswith("global  of a, b") for line in lines)
    assert lines[-1] == "all sound: every row, file, digest and signature was checked"
    document = f.admin("status")
    assert {(one["site"], one["holds"]) for one in document["contributions"]} >= {
        ("b", "weights"),
        ("a", "sums"),
    }
    assert document["faults"] == []


def test_status_names_faults_and_loses_nothing_where_an_older_index_was_restored(
    copied: Any, kit: ModuleType
) -> None:
    f, index = copied, copied.server / "store" / "index.sqlite"
    backup = shutil.copyfile(index, f.root / "backup")
    f.admin("import", f.root / "c.contribution")
    f.admin("rebuild")
    shutil.copyfile(backup, index)
    said = kit.run(SERVER, "status", "-C", f.server)
    faults = [line for line in said.out.splitlines() if line.startswith("fault: ")]
    assert said.code == 0 and len(faults) == 2 and "all sound" not in said.out
    (one,) = (line for line in faults if "contribution of site `c`, sequence 1, that the index" in line)
    path = one.removeprefix("fault: ").partition(": ")[0]
    assert f.admin("import", path)["imported"][0]["site"] == "c"
    assert f.admin("rebuild")["sites"] == ["a", "b", "c"]
    assert f.admin("status")["faults"] == []


def test_site_revoke_says_what_stays(copied: Any, kit: ModuleType) -> None:
    said = kit.run(SERVER, "site", "revoke", "-C", copied.server, "a")
    assert said.out == "a: revoked; its 2 contributions stay until `withdraw`\n"
    assert kit.run(SERVER, "site", "revoke", "-C", copied.server, "c").out == "c: revoked\n"


# --- files that are no contributions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "kind", "hint"),
    [
        ("tiny.generation", "a generation", "hospitals take it: `fedmed-edge contribute --generation FILE`"),
        ("a.backbone", "a backbone", "`fedmed-edge contribute --weights FILE` makes a contribution of it"),
        ("tiny.onnx", "an exported model", "`fedmed-edge infer --model FILE` takes it"),
        ("tiny.onnx.sig", "a signature", "it belongs beside the file that it signs"),
        ("tiny.toml", "a recipe", "`fedmed-server generation publish --recipe FILE` takes it"),
        ("c/c.pub", "a public key", "`fedmed-server site add NAME --key FILE` takes it"),
        ("c/site.key", "a private key", "private keys never travel"),
        ("c/fedmed.toml", "a settings file", "its folder is named with -C"),
    ],
)
def test_import_says_what_another_file_is_and_what_takes_it(
    file: str, kind: str, hint: str, world: Any, kit: ModuleType
) -> None:
    path = world.root / file
    said = kit.run(SERVER, "import", "-C", world.server, path)
    refused(said, 1, f"{path}: is {kind}, expected a contribution\n", hint)
    (told,) = kit.run(SERVER, "import", "-C", world.server, path, "--json").json["refused"]
    assert told["hint"].startswith(hint)


def test_import_calls_a_model_of_the_store_so(world: Any, kit: ModuleType, tmp_path: Path) -> None:
    store = Store.open(world.server / "store")
    path = tmp_path / "model"
    path.write_bytes(store.model_content(store.models()[0].digest))
    said = kit.run(SERVER, "import", "-C", world.server, path)
    refused(said, 1, f"{path}: is a model, expected a contribution", "`fedmed-server rebuild` makes models")


# --- withdraw --------------------------------------------------------------------------------------------


def test_withdraw_without_a_terminal_or_an_answer_is_wrong_usage(
    copied: Any, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (SERVER, "withdraw", "-C", copied.server, "a")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    said = kit.run(*given)
    refused(said, 2, "there is no terminal to confirm at: give --yes", "see `fedmed-server withdraw --help`")
    assert "delete everything" not in said.err
    monkeypatch.setattr("sys.stdin", Terminal(""))
    refused(kit.run(*given), 2, "not answered, nothing was deleted: give --yes", "see `fedmed-server")
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    said = kit.run(*given)
    refused(said, 1, "withdraw: not confirmed, nothing was deleted", "answer y, or give --yes")
    assert "delete everything that a contributed (2 contributions) and rebuild? [y/N]" in said.err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "error: store: no site `d`, enrolled are: a, b, c\n" in kit.run(*given[:-1], "d").err
    assert {one["site"] for one in copied.admin("status")["contributions"]} == {"a", "b"}
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert kit.run(*given).code == 0


def test_ctrl_c_at_the_question_deletes_nothing(
    copied: Any, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting(Terminal):
        def readline(self, *_size: Any) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Interrupting())
    refused(kit.run(SERVER, "withdraw", "-C", copied.server, "a"), 130, "interrupted", "what was finished")
    assert {one["site"] for one in copied.admin("status")["contributions"]} == {"a", "b"}


def test_withdraw_tells_digests_before_and_after_and_what_stays(copied: Any, kit: ModuleType) -> None:
    f = copied
    before = f.admin("status")["models"][0]["digest"]
    complete = f.admin("status")["generations"][0]
    other = f.copy(f.root / "other")
    told = f.admin("withdraw", "b", "--yes")
    assert told["exported"] == [before]
    after = told["digest"]
    assert told["tasks"] == {"tiny": {"before": before, "after": after}} and before != after
    assert told["stays"] == {"backbones": [], "measurements": [complete]}
    lines = kit.run(SERVER, "withdraw", "-C", other.server, "b", "--yes").out.splitlines()
    assert lines == [
        "b: 2 contributions deleted",
        f"models marked as withdrawn: {before[:12]}",
        f"tiny: model {before[:12]} before, {after[:12]} now, of a",
        f"stays until the next generation: standardisation and reference of {complete[:12]}, "
        "measured with images of b",
        f"model {before[:12]} was exported and still answers at hospitals that do not connect: "
        "export anew and hand it over",
    ]
    last = kit.run(SERVER, "withdraw", "-C", f.server, "a", "--yes").out
    assert f"tiny: model {after[:12]} before, no model was rebuilt from those who are left: " in last
    again = kit.run(SERVER, "withdraw", "-C", other.server, "b", "--yes").out
    assert again.startswith("b: held nothing, nothing was deleted\n")


def test_withdraw_deletes_what_had_not_come_whole(copied: Any, kit: ModuleType) -> None:
    inbox = copied.server / "federation" / "inbox"
    for site in "ab":
        begun = Assembly(inbox / site, "0" * 64)
        begun.begin(10)
    round_cut_off = inbox.parent / "trainings" / ("1" * 32) / "1"
    round_cut_off.mkdir(parents=True)
    (round_cut_off / "b.safetensors").write_bytes(b"its weights")
    (round_cut_off.with_suffix(".backbone")).write_bytes(b"of an earlier round")
    assert copied.admin("withdraw", "b", "--yes")["arriving"] == 1
    assert [path.parent.name for path in inbox.glob("*/0*")] == ["a", "a"]
    assert [path.name for path in round_cut_off.parent.iterdir()] == ["1.backbone"]
    assert copied.admin("withdraw", "b", "--yes")["arriving"] == 0


def test_withdraw_names_the_backbone_that_learned_from_the_site(copied: Any, kit: ModuleType) -> None:
    f = copied
    f.publish("learned.generation", "--backbone", f.root / "a.backbone")
    learned = f.admin("status")["generations"][0]
    assert learned in f.admin("withdraw", "a", "--yes")["stays"]["backbones"]
    said = kit.run(SERVER, "withdraw", "-C", f.server, "a", "--yes")
    assert f"what the backbone of {learned[:12]} learned from images of a\n" in said.out


def test_rebuild_says_what_was_chosen_without_folds(copied: Any, kit: ModuleType) -> None:
    f, settings = copied, copied.root / "c" / "fedmed.toml"
    settings.write_text(settings.read_text().replace("min_cohort = 2", "min_cohort = 10"))
    site = ("-C", f.root / "c", "--generation", f.generation)
    assert kit.run(EDGE, "contribute", *site, "--out", f.root / "whole.contribution").code == 0
    f.admin("import", f.root / "whole.contribution")
    said = kit.run(SERVER, "rebuild", "-C", f.server, "--without", "a", "--without", "b")
    assert said.out.splitlines()[2:] == [
        "ridge 0.01, temperature 8.000",
        "ridge: default, no class has folds",
        "temperature: no folds, from rows that the head has seen, so that it may be too sure: dark, bright",
    ]


def test_contribute_names_a_class_that_stays_once(copied: Any, kit: ModuleType) -> None:
    f, settings = copied, copied.root / "c" / "fedmed.toml"
    settings.write_text(settings.read_text().replace("min_cohort = 2", "min_cohort = 10"))
    for name in ("releases.jsonl", "sequence"):  # as if nothing had left yet
        (f.root / "c" / name).unlink()
    labels = f.root / "c-data" / "labels.csv"
    labels.write_text(labels.read_text().replace("1.png,bright", "1.png,dark"))
    site = ("-C", f.root / "c", "--generation", f.generation)
    said = kit.run(EDGE, "contribute", *site, "--out", f.root / "few.contribution")
    assert said.err.count("left out") == 1, said.err
    assert "class bright is left out: patients 8, min_cohort 10" in said.err


def test_refine_for_a_site_whose_sums_have_noise_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = SimpleNamespace(header=SimpleNamespace(site="a", parts=("classes",)))
    held_back = SimpleNamespace(of=lambda task: {})
    store = SimpleNamespace(held_back=held_back, contributions=lambda task: [noisy])
    verb = importlib.import_module("fedmed_edge.commands.server.refine")
    monkeypatch.setattr(verb, "read_server", lambda folder: (None, store))
    monkeypatch.setattr(verb, "task_of", lambda store, task: "tiny")
    refused = CliRunner().invoke(server, ["refine", "-C", str(tmp_path), "a"]).exception
    assert isinstance(refused, InputError)
    assert "site `a` handed over no image statistics" in str(refused)
    assert refused.hint is not None and "takes the model of all" in refused.hint
