"""The ledger as the admin reads it; a published generation written once more; a store elsewhere."""

import sqlite3
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedmed_edge.commands.folders import read_server
from fedmed_edge.signing import fingerprint, read_public_key, verify_file

EDGE, SERVER = "fedmed-edge", "fedmed-server"


def test_the_log_tells_the_story_and_who_was_in_the_model(copied: Any, kit: ModuleType) -> None:
    f = copied
    f.export("again.onnx")
    f.admin("withdraw", "b", "--yes")
    document = f.admin("log", "--verify")
    kinds = [row["kind"] for row in document["rows"]]
    assert kinds[:2] == ["started", "enrolled"] and kinds[-2:] == ["withdrew", "rebuilt"]
    assert document["verified"] is True
    assert document["head"] == {"number": len(kinds), "hash": document["rows"][-1]["hash"]}
    exported = next(row for row in document["rows"] if row["kind"] == "exported")
    rebuilt = next(row for row in document["rows"] if row["kind"] == "rebuilt")
    assert exported["subject"] == rebuilt["subject"]
    assert sorted(rebuilt["details"]["contributions"]) == ["a", "b"]
    contributed = {row["subject"]: row["site"] for row in document["rows"] if row["kind"] == "contributed"}
    assert rebuilt["details"]["contributions"] == {
        site: one for one, site in contributed.items() if one in rebuilt["details"]["contributions"].values()
    }
    lines = kit.run(SERVER, "log", "-C", f.server, "--verify").out.splitlines()
    assert len(lines) == len(kinds) + 1
    assert lines[-1] == f"every row checked; head {len(kinds)} {document['head']['hash']}"
    mark = fingerprint(read_public_key(f.root / "a" / "a.pub"))
    assert lines[1].endswith(f" enrolled     a                 fingerprint {mark}")
    some = kit.run(SERVER, "log", "-C", f.server, "--site", "b", "--last", "1").out.splitlines()
    assert len(some) == 2 and " withdrew     b " in some[0] and some[1] == lines[-1].partition("; ")[2]


def test_the_log_says_under_which_noise_and_cuts_digests_alone(copied: Any, kit: ModuleType) -> None:
    f, words = copied, "w" * 64
    f.admin("site", "hold", "b", "--why", words)
    lines = kit.run(SERVER, "log", "-C", f.server).out
    assert f"why {words}\n" in lines
    contributed = next(row for row in f.admin("log")["rows"] if row["kind"] == "contributed")
    noise = {"epsilon": 8.0, "delta": 1e-05}
    details = {"file": contributed["subject"], "privacy": noise}
    read_server(f.server)[1].ledger_append("refused", "a", details=details)
    line = kit.run(SERVER, "log", "-C", f.server, "--last", "1").out.splitlines()[0]
    assert line.endswith(f"file {contributed['subject'][:12]}, privacy delta 1e-05 epsilon 8")


def test_a_broken_chain_is_a_refusal_that_names_the_row(copied: Any, kit: ModuleType) -> None:
    f = copied
    head = f.admin("log")["head"]["hash"]
    assert kit.run(SERVER, "log", "-C", f.server, "--verify", "--head", head[:16]).code == 0
    said = kit.run(SERVER, "log", "-C", f.server, "--verify", "--head", "0" * 16)
    assert said.code == 1 and "error: ledger: no row has the hash 0000000000000000, which was" in said.err
    assert kit.run(SERVER, "log", "-C", f.server, "--head", head).code == 2
    with sqlite3.connect(f.server / "store" / "index.sqlite") as index:
        index.execute("UPDATE ledger SET site = 'c' WHERE number = 2")
    index.close()
    said = kit.run(SERVER, "log", "-C", f.server, "--verify", "--json")
    assert said.code == 1 and said.out == ""
    assert "error: ledger: row 2 was changed: hash has " in said.err
    assert "hint: somebody wrote to the index past fedmed-server" in said.err
    assert any("ledger: row 2 was changed" in fault for fault in f.admin("status")["faults"])
    # it is still shown, and everything else goes on
    assert len(f.admin("log")["rows"]) > 2 and f.admin("rebuild")["digest"]


def test_a_generation_is_written_once_more_where_its_signature_was_lost(copied: Any, kit: ModuleType) -> None:
    f = copied
    lost, found = f.root / "tiny.generation", f.root / "found.generation"
    told = f.admin("generation", "export", "--out", found)
    assert found.read_bytes() == lost.read_bytes()
    verify_file(found, read_public_key(f.server / "server.pub"))
    draft = f.admin("status")["generations"][-1]
    assert f.admin("generation", "export", "--generation", draft[:12], "--out", lost)["digest"] == draft
    assert told["digest"] != draft
    said = kit.run(SERVER, "generation", "export", "-C", f.server, "--generation", "ffff", "--out", found)
    assert said.code == 1 and "error: store: no generation ffff" in said.err


def test_a_folder_in_the_place_of_each_file_of_the_store_is_a_fault_of_status(
    copied: Any, kit: ModuleType
) -> None:
    for file in [path for path in (copied.server / "store" / "objects").rglob("*") if path.is_file()]:
        file.unlink()
        file.mkdir()
        told = copied.admin("status")
        assert any(str(file) in fault for fault in told["faults"])
    said = kit.run(SERVER, "status", "-C", copied.server)
    assert said.code == 0 and "\nfault: " in said.out


def test_a_beginning_that_several_digests_have_is_refused(copied: Any, kit: ModuleType) -> None:
    f, files = copied, ("--out", copied.root / "x")
    found = f.admin("status")["generations"]
    shared, seed = "", 1
    while not shared:  # the 17th digest begins as another one at the latest
        found.append(f.admin("generation", "publish", *files, "--seed", seed)["digest"])
        begins, seed = [digest[0] for digest in found], seed + 1
        shared = next((one for one in begins if begins.count(one) > 1), "")
    told = f"error: store: 2 generations begin with `{shared}`, expected one"
    said = kit.run(SERVER, "generation", "export", "-C", f.server, "--generation", shared, *files)
    assert said.code == 1 and told in said.err and found[-1][:12] in said.err
    given = ("--generation", shared, "--site", "a", "--site", "b")
    assert told in kit.run(SERVER, "train", "-C", f.server, *given).err
    begins = []
    while len(begins) == len({*begins}):
        begins.append(f.admin("rebuild", "--ridge", 1.0 + len(begins))["digest"][0])
    said = kit.run(SERVER, "export", "-C", f.server, "--model", begins[-1], *files)
    assert said.code == 1 and "models of tiny begin with `" in said.err


def test_the_folder_of_a_server_is_no_hospitals_to_doctor(copied: Any, kit: ModuleType) -> None:
    said = kit.run(EDGE, "doctor", "-C", copied.server)
    first = said.out.splitlines()[0]
    assert said.code == 1 and first.startswith("fault    settings ")
    assert first.endswith(f"{copied.server}: is the folder of a server, expected a hospital's")


def test_a_store_elsewhere_stands_in_the_settings(
    tmp_path: Path, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, place = tmp_path / "server", "memory://test_a_store_elsewhere"
    assert kit.run(SERVER, "init", server, "--objects", place).code == 0
    assert f'objects = "{place}"' in (server / "fedmed.toml").read_text()
    assert not (server / "store" / "objects").exists()
    assert "all sound" in kit.run(SERVER, "status", "-C", server).out
    monkeypatch.setenv("FEDMED_INDEX", "mysql://u:secret@host/db")
    for words in (["status", "-C", server], ["init", tmp_path / "other"]):
        said = kit.run(SERVER, *words)
        assert said.code == 1 and "error: `index` has mysql, expected postgresql+psycopg://" in said.err
        assert "secret" not in said.err


def test_a_plan_says_bytes_seconds_and_that_rates_were_measured_here(tmp_path: Path, kit: ModuleType) -> None:
    given = ("--sites", "50", "--feature-dim", "16", "--classes", "3", "--folds", "2", "--at", tmp_path)
    document = kit.run(SERVER, "plan", *given, "--json").json
    assert document["plan"]["round_bytes"] == 50 * document["plan"]["contribution_bytes"]
    said = kit.run(SERVER, "plan", *given)
    lines = said.out.splitlines()
    assert lines[0].endswith("  2 folds of 3 classes, rows of 16") and said.err == ""
    assert lines[-1].startswith("rates were measured on this machine in ")
    said = kit.run(SERVER, "plan", *given[:-1], tmp_path, "--sites", "0")
    assert said.code == 1 and "error: plan: `sites` has 0, expected 1 to 1000000" in said.err


def test_a_centre_takes_up_what_the_server_of_a_region_holds(copied: Any, kit: ModuleType) -> None:
    f, centre = copied, copied.root / "centre"
    assert kit.run(SERVER, "init", centre).code == 0
    take = (SERVER, "generation", "import", "-C", centre, "--recipe", f.root / "tiny.toml")
    draft, complete = f.root / "draft", f.root / "tiny.generation"
    f.admin("generation", "export", "--generation", f.admin("status")["generations"][-1], "--out", draft)
    said = kit.run(*take, complete, "--trust", centre / "server.pub")
    assert said.code == 5 and "tiny.generation: signed by SHA256:" in said.err
    for file in (draft, complete):
        assert kit.run(*take, file, "--trust", f.server / "server.pub").code == 0
    assert (
        kit.run(SERVER, "status", "-C", centre, "--json").json["generations"]
        == f.admin("status")["generations"]
    )
    kit.run(SERVER, "site", "add", "-C", centre, "a", "--key", f.root / "a" / "a.pub")
    said = kit.run(SERVER, "import", "-C", centre, f.server)
    assert said.code == 3 and "of b: unknown signer SHA256:" in said.err
    kit.run(SERVER, "site", "add", "-C", centre, "b", "--key", f.root / "b" / "b.pub")
    told = kit.run(SERVER, "import", "-C", centre, f.server, "--json").json["imported"]
    current = [one for one in f.admin("status")["contributions"] if one["current"]]
    assert [(one["id"], one["site"]) for one in told] == [(one["id"], one["site"]) for one in current]
    assert told[0]["file"] == f"{f.server}: contribution {told[0]['id'][:12]} of a"
    made = kit.run(SERVER, "rebuild", "-C", centre, "--json").json
    assert made["digest"] == f.admin("rebuild")["digest"]
    said = kit.run(SERVER, "import", "-C", centre, f.root)
    assert said.code == 1 and f"error: {f.root}: cannot be read: Is a directory" in said.err
