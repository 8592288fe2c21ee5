"""What a site lets out, when, how fast, and what it writes down of it."""

import hashlib
import json
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fedmed_edge.atomic import write_atomic
from fedmed_edge.config import Policy, ServerConfig, SiteConfig, SiteFederation, write_config
from fedmed_edge.errors import InputError, StoreError
from fedmed_edge.federation import coordinator as coordinating
from fedmed_edge.federation import outbox
from fedmed_edge.federation.asked import Asked, Duty
from fedmed_edge.federation.duties import TRIES, work
from fedmed_edge.federation.egress import Followed, Pace, read_egress
from fedmed_edge.federation.engine.processes import agent_children, server_children, work_once
from fedmed_edge.federation.inbox import Arrived, Inbox
from fedmed_edge.federation.messages import Ask, Report
from fedmed_edge.federation.parts import Assembly, Incomplete
from fedmed_edge.federation.placing import place_models
from fedmed_edge.federation.policy import objection, within_hours
from fedmed_edge.federation.publishing import Publisher
from fedmed_edge.federation.records import write_record
from fedmed_edge.federation.wire import Request, encode
from fedmed_edge.inference.model_folder import ModelFolder
from fedmed_edge.recipe import Recipe, write_recipe

RECIPE, GENERATION = "a" * 64, "b" * 64


def ask(kind: str = "train", **more: Any) -> Ask:
    said = {"id": "0" * 32, "kind": kind, "recipe": RECIPE, "generation": GENERATION, "deadline": 0}
    return Ask.model_validate(said | more)


# --- policy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "rules", "policy", "why"),
    [
        (ask("contribute"), {}, {}, "policy: `may_contribute` is false"),
        (ask("train"), {"may_contribute": True}, {}, "policy: `may_train` is false"),
        (ask("validate"), {}, {}, "policy: `may_validate` is false"),
        (
            ask("train"),
            {"may_train": True, "generations": ("cc" * 8,)},
            {},
            "generation is not in `generations`",
        ),
        (ask("train"), {"may_train": True, "recipes": ("cc" * 8,)}, {}, "recipe is not in `recipes`"),
        (ask("train", recipe="c" * 64), {"may_train": True}, {}, "policy: the recipe is not the site's"),
        (ask("train", epochs=11), {"may_train": True}, {}, "policy: 11 epochs, expected at most 10"),
        (ask("train"), {"may_train": True}, {"parts": ("classes",)}, "policy: `parts` has no weights"),
        (ask("train"), {"may_train": True, "generations": ("bbbbbbbb",), "recipes": ("aaaaaaaa",)}, {}, None),
        (ask("train"), {"may_train": True}, {"epsilon": 1.0}, None),
        (
            ask("validate"),
            {"may_validate": True},
            {"epsilon": 1.0},
            "policy: nothing leaves without noise",
        ),
        (ask("contribute", epochs=999), {"may_contribute": True}, {"parts": ("classes",)}, None),
    ],
)
def test_a_site_does_what_its_settings_allow(
    request_: Ask, rules: dict[str, Any], policy: dict[str, Any], why: str | None
) -> None:
    config = SiteConfig(site="alpha", federation=SiteFederation(**rules), policy=Policy(**policy))
    found = objection(request_, config, RECIPE)
    assert (found is None) if why is None else (why in (found or ""))


@pytest.mark.parametrize(
    ("hours", "hour", "within"),
    [(None, 3, True), ("09:00-17:00", 9, True), ("09:00-17:00", 17, False), ("22:00-06:00", 3, True)],
)
def test_hours_may_span_midnight(hours: str | None, hour: int, within: bool) -> None:
    assert within_hours(SiteFederation(hours=hours), datetime(2026, 5, 5, hour)) is within


def test_outside_its_hours_a_site_says_hello_and_no_more(federation: Any, tmp_path: Path) -> None:
    alpha = federation.hospitals["alpha"]
    now = datetime.now()
    hours = f"{(now.hour + 2) % 24:02}:00-{(now.hour + 3) % 24:02}:00"
    rules = alpha.config.federation.model_copy(update={"hours": hours})
    alpha.config = alpha.config.model_copy(update={"federation": rules})
    alpha.put()
    path = tmp_path / "model"
    path.write_bytes(b"model")
    federation.offers.publish(path, federation.key, kind="model")
    result = federation.sync("alpha")
    assert (result.sent, result.received, result.waiting) == ([], [], 1)
    assert {entry.op for entry in read_egress(alpha.folder)} == {"hello"}


def test_a_request_is_refused_with_the_rule_and_the_server_hears_it(federation: Any, recipe: Recipe) -> None:
    alpha = federation.hospitals["alpha"]
    alpha.config = alpha.config.model_copy(update={"recipe": alpha.folder / "recipe.toml"})
    write_recipe(alpha.folder / "recipe.toml", recipe)
    made = federation.requests.make(
        "alpha", "test", kind="train", recipe=recipe.digest, generation=alpha.generation.digest, deadline=0
    )
    federation.sync("alpha")
    (report,) = work(alpha.folder, alpha.config)
    assert (report.state, report.why) == ("refused", "policy: `may_train` is false")
    assert work(alpha.folder, alpha.config) == []
    assert federation.sync("alpha").reported == [made.ask.id]
    assert federation.requests.read("alpha", made.ask.id).report == report
    assert federation.sync("alpha").reported == []


def test_work_that_fails_tells_its_kind_and_no_path(
    federation: Any, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alpha = federation.hospitals["alpha"]
    rules = alpha.config.federation.model_copy(update={"may_contribute": True})
    missing = {"recipe": alpha.folder / "recipe.toml", "data": tmp_path / "secret-place", "federation": rules}
    alpha.config = alpha.config.model_copy(update=missing)
    write_recipe(alpha.folder / "recipe.toml", recipe)
    path = tmp_path / "generation"
    path.write_bytes(alpha.generation.content)
    federation.offers.publish(path, federation.key, kind="generation", recipe=recipe.digest)
    federation.sync("alpha")
    for _ in range(TRIES - 1):
        assert work(alpha.folder, alpha.config) == []  # it may be done later: a disk, a device
        (duty,) = asked_of(alpha)
        assert duty.not_before > time.time() + 200
        Asked(alpha.folder / "requests").put_off(duty.model_copy(update={"tries": duty.tries - 1}), 0.0)
    (report,) = work(alpha.folder, alpha.config)
    assert (report.state, report.why) == ("failed", "could not be done: InputError")
    assert "secret-place" in caplog.text


def test_a_model_that_cannot_be_kept_holds_up_no_request(tmp_path: Path, recipe: Recipe) -> None:
    write_config(tmp_path / "fedmed.toml", SiteConfig(site="alpha"))
    write_recipe(tmp_path / "recipe.toml", recipe)
    arrived = Arrived(kind="model", digest="d" * 64, bytes=1, signature="", task=recipe.name, came=0.0)
    write_record(tmp_path / "inbox" / f"{arrived.digest}.json", arrived)  # its file is not there
    Asked(tmp_path / "requests").note([ask(deadline=time.time() + 1000)])
    with pytest.raises(InputError, match=r"\.model: no such file"):
        work_once(tmp_path)
    assert Asked(tmp_path / "requests").open() == []


FORMATS = Path(__file__).parents[2] / "formats"


def test_a_model_that_cannot_be_placed_holds_up_no_other(tmp_path: Path) -> None:
    content, inbox = (FORMATS / "exported_model_1.onnx").read_bytes(), tmp_path / "inbox"
    digest = hashlib.sha256(content).hexdigest()
    for name, task in (("0" * 64, "another"), (digest, "lesion")):
        arrived = Arrived(kind="model", digest=name, bytes=1, signature="", task=task, came=0.0)
        write_record(inbox / f"{name}.json", arrived)
    write_atomic(inbox / f"{digest}.model", content)
    write_atomic(inbox / f"{digest}.model.sig", (FORMATS / "exported_model_1.onnx.sig").read_bytes())
    config = SiteConfig(site="alpha", server_key=FORMATS / "exported_model_1.pub")
    for _ in range(2):
        with pytest.raises(InputError, match=r"0000\.model: no such file"):  # it is tried again
            place_models(tmp_path, config)
        assert [entry.name for entry in ModelFolder(tmp_path).entries()] == [digest[:16]]
    assert [one.placed for one in Inbox(inbox).all()] == [False, True]


def test_a_record_is_changed_as_it_stands(tmp_path: Path) -> None:
    """The worker verifies a model for seconds while the connection hears that it was withdrawn."""
    arrived = Arrived(kind="model", digest="d" * 64, bytes=1, signature="", task="lesion", came=0.0)
    inbox = Inbox(tmp_path)
    write_record(tmp_path / f"{arrived.digest}.json", arrived)
    inbox.change(arrived.digest, "taken back")
    inbox.note_placed(arrived.digest, True)
    assert [(one.state, one.placed) for one in inbox.all()] == [("taken back", True)]
    inbox.still_published(arrived.digest, 5.0)
    assert [(one.state, one.placed, one.made) for one in inbox.all()] == [("here", True, 5.0)]
    inbox.change(arrived.digest, "withdrawn")
    inbox.still_published(arrived.digest, 6.0)
    inbox.note_placed(arrived.digest, False)
    assert [(one.state, one.placed) for one in inbox.all()] == [("withdrawn", False)]


SHOWN = (
    "import sys; from fedmed_edge import config as c; print(c.read_config(getattr(c, sys.argv[1]), None).key)"
)


@pytest.mark.parametrize("model", [ServerConfig, SiteConfig])
def test_relative_paths_count_from_where_a_verb_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: type
) -> None:
    """Coordinator, worker and engine run in other folders, and read the settings there."""
    folder, here = tmp_path / "folder", tmp_path / "here"
    for made in (folder / "engine" / "server", folder / "engine" / "startup", here):
        made.mkdir(parents=True)
    write_atomic(folder / "engine" / "startup" / "fed_client.json", b'{"client": {"fqsn": "alpha"}}')
    monkeypatch.chdir(here)
    monkeypatch.setenv("FEDMED_KEY", "keys/a.key")
    monkeypatch.setenv("FEDMED_SITE", "alpha")
    children = server_children(folder) if model is ServerConfig else agent_children(folder, None)
    assert [child.name for child in children] in (["engine", "coordinator"], ["engine", "worker"])
    for child in children:
        child.command = [sys.executable, "-c", SHOWN, model.__name__]
        child.start()
        assert child.process.wait(30) == 0
        assert child.output.read_text() == f"{here}/keys/a.key\n"


def asked_of(hospital: Any) -> list[Duty]:
    """Requests that are open, those that wait too."""
    return [duty for duty in Asked(hospital.folder / "requests").all() if duty.state == "open"]


def test_what_is_no_longer_asked_is_not_done(federation: Any) -> None:
    alpha = federation.hospitals["alpha"]
    said = {"kind": "train", "recipe": RECIPE, "generation": GENERATION, "deadline": 0}
    made = federation.requests.make("alpha", "test", **said)
    federation.sync("alpha")
    assert [duty.ask.id for duty in Asked(alpha.folder / "requests").open()] == [made.ask.id]
    federation.requests.close(made)
    federation.sync("alpha")
    assert Asked(alpha.folder / "requests").open() == []


def test_what_the_server_may_have_closed_meanwhile_is_not_done_before_it_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(tmp_path)
    one, other = ask(id="1" * 32, deadline=100), ask(id="2" * 32, deadline=300)
    for now, wanted in ((50.0, ["1" * 32, "2" * 32]), (200.0, ["2" * 32])):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        if now < 100:
            asked.note([one, other])
        assert [duty.ask.id for duty in asked.open()] == wanted
    assert asked.note([one, other]) == []  # no quorum: the server still waits for this site
    assert [duty.ask.id for duty in asked.open()] == ["1" * 32, "2" * 32]


def test_the_first_report_counts(federation: Any) -> None:
    said = {"kind": "train", "recipe": RECIPE, "generation": GENERATION, "deadline": 0}
    made = federation.requests.make("alpha", "test", **said)
    for state in ("failed", "done"):
        federation.requests.answer("alpha", Report(request=made.ask.id, state=state))
    assert federation.requests.read("alpha", made.ask.id).report.state == "failed"
    with pytest.raises(InputError, match="of a request that this site was not asked"):
        federation.requests.answer("beta", Report(request=made.ask.id, state="done"))


def test_a_report_that_the_server_could_not_keep_is_told_again(
    federation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"kind": "train", "recipe": RECIPE, "generation": GENERATION, "deadline": 0}
    made = federation.requests.make("alpha", "test", **said)
    federation.sync("alpha")
    federation.hospitals["alpha"].answer(state="failed")

    def full(*given: Any) -> None:
        raise StoreError("record: not kept: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("fedmed_edge.federation.requests.Requests.answer", full)
        assert federation.sync("alpha").reported == []
    assert federation.sync("alpha").reported == [made.ask.id]
    assert federation.requests.read("alpha", made.ask.id).report.state == "failed"


@pytest.mark.parametrize(("state", "again"), [("refused", True), ("failed", True), ("done", False)])
def test_who_did_not_contribute_is_asked_once_more_at_the_next_publish(
    federation: Any, recipe: Recipe, state: str, again: bool
) -> None:
    alpha, generation = federation.hospitals["alpha"], federation.hospitals["alpha"].generation.digest

    def asked() -> list[str]:
        Publisher(federation.store, federation.folder, federation.key).generation(generation, recipe)
        federation.sync("alpha")
        return [duty.ask.id for duty in Asked(alpha.folder / "requests").open()]

    (first,) = asked()
    assert asked() == [first]
    alpha.answer(state=state)
    federation.sync("alpha")
    second = asked()
    assert (len(second) == 1) == again
    assert first not in second


# --- what left -------------------------------------------------------------------------------------------


def test_every_byte_that_left_is_written_down_before_it_leaves(federation: Any, small_parts: int) -> None:
    alpha = federation.hospitals["alpha"]
    parcel = alpha.put(size=1000)
    left: list[int] = []
    channel = federation.channel("alpha")
    ask_, lines = channel.ask, []

    def watched(op: str, fields: Any, data: bytes = b"") -> Any:
        left.append(len(encode(Request(op, fields, data))))
        lines.append(sum(1 for _ in read_egress(alpha.folder)))
        return ask_(op, fields, data)

    channel.ask = watched
    federation.sync("alpha", channel)
    entries = list(read_egress(alpha.folder))
    assert [entry.bytes for entry in entries] == left
    assert lines == list(range(1, len(left) + 1))
    puts = [entry for entry in entries if entry.op == "put"]
    assert {(entry.subject, entry.rule) for entry in puts} == {
        (parcel.digest, "policy.parts: weights; min_cohort 10")
    }
    assert sum(entry.bytes for entry in puts) >= parcel.bytes


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    good = {"when": "2026-01-01", "op": "put", "bytes": 1, "subject": "", "rule": ""}
    (tmp_path / "egress.jsonl").write_text(
        json.dumps(good) + "\n" + '{"when": "2026\n' + json.dumps(good) + "\n"
    )
    assert len(list(read_egress(tmp_path))) == 2
    assert list(read_egress(tmp_path / "nowhere")) == []


def test_who_follows_what_leaves_reads_nothing_twice(tmp_path: Path) -> None:
    line = json.dumps({"when": "2026-01-01", "op": "put", "bytes": 1, "subject": "", "rule": ""}) + "\n"
    path, followed = tmp_path / "egress.jsonl", Followed(tmp_path)
    assert list(followed.new()) == []
    path.write_text(line + line + line[:9])
    assert [len(list(followed.new())) for _ in range(2)] == [2, 0]
    with path.open("a") as file:
        file.write(line[9:])
    assert len(list(followed.new())) == 1


def test_what_leaves_after_a_line_that_was_cut_off_stands_in_one_of_its_own(federation: Any) -> None:
    folder = federation.hospitals["alpha"].folder
    (folder / "egress.jsonl").write_text('{"when": "2026')
    federation.sync("alpha")
    assert [entry.op for entry in read_egress(folder)] == ["hello"]


def test_a_file_that_waits_for_months_waits_an_hour_at_a_time(federation: Any) -> None:
    alpha = federation.hospitals["alpha"]
    parcel = alpha.put().model_copy(update={"tries": 5000})
    alpha.outbox.put_off(parcel, "the server's disk is full")
    (waiting,) = alpha.outbox.waiting()
    assert 2870 < waiting.not_before - time.time() <= 3600


def test_the_bandwidth_is_kept_over_all_threads() -> None:
    pace, began = Pace(1_000_000), time.monotonic()
    threads = [threading.Thread(target=pace.wait, args=(100_000,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.29 <= time.monotonic() - began < 3


def test_a_file_that_is_gone_holds_up_no_other(federation: Any) -> None:
    alpha = federation.hospitals["alpha"]
    gone, kept = alpha.put(), alpha.put()
    alpha.outbox.path(gone.digest).unlink()
    assert federation.sync("alpha").sent == [kept.id]
    assert alpha.outbox.all()[0].why == "its file is gone from the outbox"


def test_a_file_that_is_being_put_into_the_outbox_is_not_swept(
    federation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = federation.hospitals["alpha"]
    swept = list[threading.Thread]()

    def write_and_sweep(path: Path, content: bytes) -> None:
        write_atomic(path, content)
        swept.append(threading.Thread(target=alpha.outbox.sweep))
        swept[0].start()
        swept[0].join(0.2)

    monkeypatch.setattr(outbox, "write_atomic", write_and_sweep)
    parcel = alpha.put()
    swept[0].join()
    assert federation.sync("alpha").sent == [parcel.id]


# --- parts and the coordinator's loop --------------------------------------------------------------------


def test_a_file_of_another_size_begins_anew(tmp_path: Path) -> None:
    file = Assembly(tmp_path, "0" * 64)
    file.begin(10)
    file.put(0, bytes(10))
    file.begin(10)
    assert file.missing() == ()
    file.begin(11)
    assert file.missing() == (0,)
    with pytest.raises(Incomplete, match="1 parts are missing, expected none"):
        file.finish()


def test_the_coordinator_meets_sites_until_it_is_told_to_stop(
    federation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinating, "POLL_S", 0.01)
    parcels = [federation.hospitals[name].put() for name in ("alpha", "beta")]
    ended = threading.Event()
    thread = threading.Thread(target=federation.coordinator(collect_s=0.01).run, args=(ended.is_set,))
    thread.start()
    until = time.monotonic() + 20
    while len(federation.store.contribution_entries()) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    with pytest.raises(InputError, match="another one is running"):
        federation.coordinator().step()
    ended.set()
    thread.join(5)
    assert not thread.is_alive()
    assert federation.held() == sorted(parcel.id for parcel in parcels)
