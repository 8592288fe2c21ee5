"""What was signed is written down first, and decides what may be signed next."""

import json
import multiprocessing
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmed_edge.config import Policy
from fedmed_edge.errors import InputError, StoreError, Withheld
from fedmed_edge.features.patients import Leaving
from fedmed_edge.federation import releases as module
from fedmed_edge.federation.releases import FILE_NAME, Releases
from fedmed_edge.federation.sequence import raise_sequence, signed_as_next
from fedmed_edge.hospital import Prepared
from fedmed_edge.signing import PrivateKey, generate_key
from fedmed_edge.statistics.accounting import (
    Steps,
    composed_multiplier,
    epsilon_of,
    noise_multiplier,
    step_multiplier,
)
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.feature_statistics import REST, FeatureStatistics, pack
from fedmed_edge.statistics.header import ContributionHeader, Privacy

PRIVATE = Policy(epsilon=1.0, delta=1e-5, budget=2.5)
WEIGHTS = {"parts": ("weights",)}


def noise_of(policy: Policy) -> float | None:
    return None if policy.epsilon is None else noise_multiplier(policy.epsilon, policy.delta)


def leaving(*cohort: str, generation: str = "ab", noisy: Policy | None = None, **more: Any) -> Leaving:
    values: dict[str, Any] = {
        "generation": generation * 32,
        "backbone": "ee" * 32,
        "task": "lesion",
        "parts": ("classes",),
        "width": 2,
        "noise": None if noisy is None else noise_of(noisy),
        "cohort": tuple(sorted(cohort)),
    }
    return Leaving(**(values | more))


def patients(*numbers: int, of: str = "benign") -> frozenset[str]:
    return frozenset(f"{number:064x} {of}" for number in numbers)


def recorded(folder: Path, *told: Leaving) -> Releases:
    """What stands in a folder after these have been signed one after the other."""
    releases = Releases(folder)
    for number, one in enumerate(told, start=1):
        releases.record(one, number)
    return Releases(folder)


# --- the privacy budget ----------------------------------------------------------------------------------


def test_noisy_contributions_are_counted_together_until_the_budget_is_exhausted(tmp_path: Path) -> None:
    one = noise_multiplier(1.0, 1e-5)
    allowed = 0
    while Releases(tmp_path).spent(PRIVATE).left:
        told = leaving(noisy=PRIVATE, generation=f"{allowed:02x}")
        Releases(tmp_path).refuse(told, PRIVATE)
        Releases(tmp_path).record(told, allowed + 1)
        allowed += 1
    stands = Releases(tmp_path).spent(PRIVATE)
    assert stands.noisy == allowed == 5 and stands.left == 0 and stands.exact == 0
    assert stands.epsilon == pytest.approx(epsilon_of(composed_multiplier([one] * allowed), 1e-5))
    assert stands.epsilon <= 2.5 < epsilon_of(composed_multiplier([one] * (allowed + 1)), 1e-5)
    message = r"privacy budget: ε 2\.\d+ of 2.5 is spent, another contribution takes 1"
    with pytest.raises(Withheld, match=message) as caught:
        Releases(tmp_path).refuse(leaving(noisy=PRIVATE, generation="ff"), PRIVATE)
    assert "`budget`" in (caught.value.hint or "")
    with pytest.raises(Withheld, match="privacy budget"):
        Releases(tmp_path).refuse_any(PRIVATE)


def test_a_contribution_of_just_the_budget_fits_once(tmp_path: Path) -> None:
    policy = Policy(epsilon=3.0, budget=3.0)
    assert Releases(tmp_path).spent(policy).left == 1
    stands = recorded(tmp_path, leaving(noisy=policy)).spent(policy)
    assert stands.epsilon == pytest.approx(3.0) and stands.left == 0


def test_what_left_without_noise_is_told_apart(tmp_path: Path) -> None:
    stands = recorded(tmp_path, leaving()).spent(Policy())
    assert (stands.epsilon, stands.left, stands.noisy, stands.exact) == (0.0, None, 0, 1)


def test_a_site_without_noise_needs_no_accountant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting.gaussian_mechanism", None)
    before = recorded(tmp_path, leaving(*patients(*range(20))))
    before.refuse(leaving(*patients(*range(20))), Policy())
    before.refuse_any(Policy())
    assert before.spent(Policy()).exact == 1
    with pytest.raises(ModuleNotFoundError, match="dp_accounting"):
        before.spent(PRIVATE)


def test_a_contribution_without_the_noise_that_the_policy_asks_for_is_not_signed(tmp_path: Path) -> None:
    for policy, told in ((PRIVATE, leaving()), (Policy(), leaving(noisy=PRIVATE))):
        with pytest.raises(Withheld, match="`epsilon` is not what the contribution was made with"):
            Releases(tmp_path).refuse(told, policy)


# --- trainings -------------------------------------------------------------------------------------------

TRAINING = Steps(step_multiplier(1.0, 1e-5, sampling=0.1, steps=50), 0.1, 50)


def trained(number: int) -> Leaving:
    return leaving(training=f"{number:032x}", width=None, backbone="", **WEIGHTS)


def test_trainings_and_contributions_are_counted_together(tmp_path: Path) -> None:
    recorded(tmp_path, leaving(noisy=PRIVATE))
    Releases(tmp_path).refuse_training(TRAINING, PRIVATE)
    Releases(tmp_path).record_training(trained(1), TRAINING)
    stands = Releases(tmp_path).spent(PRIVATE)
    both = epsilon_of(noise_multiplier(1.0, 1e-5), 1e-5, [TRAINING])
    assert stands.epsilon == pytest.approx(both) and 1.3 < both < 2.0
    assert (stands.noisy, stands.trainings, stands.exact) == (1, 1, 0)
    assert stands.left is not None and 0 < stands.left < 4
    for number in range(2, 9):
        releases = Releases(tmp_path)
        try:
            releases.refuse_training(TRAINING, PRIVATE)
        except Withheld as error:
            assert f"is spent, with this training it would be {epsilon_after(releases):.3g}" in str(error)
            break
        releases.record_training(trained(number), TRAINING)
    else:
        pytest.fail("the budget has no end")
    assert 2.0 < Releases(tmp_path).spent(PRIVATE).epsilon <= 2.5


def epsilon_after(releases: Releases) -> float:
    """With one more training, of one release."""
    return epsilon_of(noise_multiplier(1.0, 1e-5), 1e-5, [TRAINING] * (releases.spent(PRIVATE).trainings + 1))


def test_a_training_of_just_the_budget_fits_once(tmp_path: Path) -> None:
    policy = Policy(epsilon=1.0, budget=1.0)
    Releases(tmp_path).refuse_training(TRAINING, policy)
    Releases(tmp_path).record_training(trained(1), TRAINING)
    assert Releases(tmp_path).spent(policy).left == 0
    with pytest.raises(Withheld, match="privacy budget: ε 1 of 1 is spent, with this training"):
        Releases(tmp_path).refuse_training(TRAINING, policy)
    with pytest.raises(Withheld, match="privacy budget"):
        Releases(tmp_path).refuse_any(policy)


def test_a_line_names_the_request_and_one_of_an_older_version_none(tmp_path: Path) -> None:
    asked = "a" * 32
    Releases(tmp_path).record_training(trained(1), TRAINING)  # by hand, and as older versions wrote it
    assert "request" not in (tmp_path / FILE_NAME).read_text()
    assert not Releases(tmp_path).spent_for(asked)
    Releases(tmp_path).record_training(trained(2), TRAINING, asked)
    assert Releases(tmp_path).spent_for(asked) and not Releases(tmp_path).spent_for("b" * 32)


def test_handing_over_what_was_trained_spends_no_more_and_of_what_was_not_nothing(tmp_path: Path) -> None:
    Releases(tmp_path).record_training(trained(1), TRAINING)
    before = Releases(tmp_path).spent(PRIVATE)
    for sequence in (1, 2):
        Releases(tmp_path).refuse(trained(1), PRIVATE)
        Releases(tmp_path).record(trained(1), sequence)
        assert Releases(tmp_path).spent(PRIVATE) == before
    for unknown in (trained(2), leaving(**WEIGHTS)):
        with pytest.raises(Withheld, match=r"releases\.jsonl knows of no training that made these weights"):
            Releases(tmp_path).refuse(unknown, PRIVATE)
        Releases(tmp_path).refuse(unknown, Policy())
    with pytest.raises(StoreError, match="is damaged"):
        line = json.loads((tmp_path / FILE_NAME).read_text().splitlines()[0]) | {"sampling": 2}
        (tmp_path / FILE_NAME).write_text(json.dumps(line) + "\n")
        Releases(tmp_path)


def test_nothing_is_trained_with_noise_where_it_is_not_known_what_left(tmp_path: Path) -> None:
    Releases(tmp_path).record_lost(3)
    with pytest.raises(Withheld, match="lacks contributions that this site signed"):
        Releases(tmp_path).refuse_training(TRAINING, PRIVATE)


# --- updates ---------------------------------------------------------------------------------------------


def test_an_update_that_differs_by_few_patients_stays(tmp_path: Path) -> None:
    first, policy = patients(*range(40)), Policy(min_cohort=10)
    before = recorded(tmp_path, leaving(*first))
    before.refuse(leaving(*first), policy)
    before.refuse(leaving(*first | patients(*range(40, 50))), policy)
    few = {
        "one came": first | patients(40),
        "nine came": first | patients(*range(40, 49)),
        "one went": first - patients(0),
        "ten came and one went": (first | patients(*range(40, 50))) - patients(0),
        "ten came, one of another class": first | patients(*range(40, 50)) | patients(50, of="malignant"),
        "one without label came": first | patients(60, of=""),
    }
    for case, now in few.items():
        with pytest.raises(
            Withheld, match=r"policy: a class differs by \d patients? from the contribution of"
        ):
            before.refuse(leaving(*now), policy)
        before.refuse(leaving(*now), Policy(min_cohort=10, update_patients=1))
        assert case


def test_draft_and_completed_generation_are_compared_since_they_share_a_backbone(tmp_path: Path) -> None:
    """What standardises and projects the features is known, so their sums can be subtracted all the same."""
    first = patients(*range(40))
    before = recorded(tmp_path, leaving(*first, parts=("unlabelled", "images")))
    one_more = first | patients(40)
    with pytest.raises(Withheld, match="differs by 1 patient") as caught:
        before.refuse(leaving(*one_more, generation="ef"), Policy())
    assert "style" not in (caught.value.hint or "")
    before.refuse(leaving(*first, generation="ef"), Policy())
    # of another backbone nothing can be subtracted, nor of another task
    before.refuse(leaving(*one_more, generation="ef", backbone="ff" * 32), Policy())
    before.refuse(leaving(*one_more, generation="ef", task="other"), Policy())


def test_styles_are_compared_whatever_the_backbone(tmp_path: Path) -> None:
    first, parts = patients(*range(40)), ("classes", "style")
    before = recorded(tmp_path, leaving(*first, parts=parts))
    other = {"generation": "ef", "backbone": "ff" * 32}
    with pytest.raises(Withheld, match="differs by 1 patient") as caught:
        before.refuse(leaving(*first, *patients(40), parts=parts, **other), Policy())
    assert "take `style` out of `parts`" in (caught.value.hint or "")
    before.refuse(leaving(*first, *patients(40), **other), Policy())


def test_where_wide_grams_are_refused_so_are_wide_differences(tmp_path: Path) -> None:
    first = patients(*range(40))
    before, strict = recorded(tmp_path, leaving(*first, width=6)), Policy(width_rule="refuse")
    with pytest.raises(Withheld, match=r"differs by 17 patients .* expected 0 or at least 18"):
        before.refuse(leaving(*first | patients(*range(40, 57)), width=6), strict)
    before.refuse(leaving(*first | patients(*range(40, 58)), width=6), strict)
    before.refuse(leaving(*first | patients(*range(40, 57)), width=6), Policy())
    before.refuse(leaving(*first | patients(*range(40, 57)), width=None), strict)


def test_an_update_is_compared_with_every_contribution_before(tmp_path: Path) -> None:
    first = patients(*range(40))
    before = recorded(tmp_path, leaving(*first), leaving(*first | patients(*range(40, 60))))
    with pytest.raises(Withheld, match="differs by 1 patient"):
        before.refuse(leaving(*first | patients(40)), Policy())


def test_an_update_that_comes_too_early_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        """Moved on by as many days as are left to it."""

        days = 6.0

        @classmethod
        def now(cls, zone: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(zone) + timedelta(days=cls.days)

    before, policy = recorded(tmp_path, leaving()), Policy(days_between=7)
    monkeypatch.setattr(module, "datetime", Clock)
    with pytest.raises(
        Withheld, match=r"the last contribution left on .* `days_between` 7 between two"
    ) as caught:
        before.refuse(leaving(), policy)
    assert "contribute on" in (caught.value.hint or "")
    before.refuse(leaving(generation="ef"), policy)
    before.refuse(leaving(**WEIGHTS), policy)
    Clock.days = 7.01
    before.refuse(leaving(), policy)


# --- what a restored folder does not know ----------------------------------------------------------------


@pytest.mark.parametrize("policy", [PRIVATE, Policy()])
def test_after_an_older_folder_was_restored_nothing_leaves_before_what_left_is_told(
    policy: Policy, tmp_path: Path
) -> None:
    told = leaving(noisy=policy) if policy.epsilon else leaving(*patients(*range(40)))
    recorded(tmp_path, told)
    (tmp_path / "sequence").write_text("1\n")
    raise_sequence(tmp_path, 2)  # the server knows of no more
    Releases(tmp_path).refuse(told, policy)
    raise_sequence(tmp_path, 4)
    raise_sequence(tmp_path, 4)
    lost = Releases(tmp_path)
    assert len(lost.lines) == 2 and lost.lines[-1].sequence == 3 and lost.spent(policy).lost
    with pytest.raises(
        Withheld, match=r"releases\.jsonl: lacks contributions that this site signed"
    ) as caught:
        lost.refuse(told, policy)
    assert "fedmed-edge budget --settle" in (caught.value.hint or "")
    lost.refuse(leaving(**WEIGHTS), Policy())
    spent = 1.5 if policy.epsilon else 0.0
    lost.settle(spent, policy)
    settled = Releases(tmp_path)
    stands = settled.spent(policy)
    assert not stands.lost
    if policy.epsilon:
        both = composed_multiplier([noise_multiplier(1.0, 1e-5), noise_multiplier(1.5, 1e-5)])
        assert stands.epsilon == pytest.approx(epsilon_of(both, 1e-5))
    settled.refuse(told, policy)
    with pytest.raises(InputError, match=r"budget: releases\.jsonl lacks nothing"):
        settled.settle(1.0, policy)


@pytest.mark.parametrize("kept", [None, 0, 1], ids=["gone", "emptied", "cut off"])
def test_a_file_that_lacks_what_the_sequence_counts_lets_nothing_leave(
    kept: int | None, tmp_path: Path
) -> None:
    told = leaving(noisy=PRIVATE)
    for _ in range(2):
        with signed_as_next(tmp_path, prepared(PRIVATE), generate_key(), policy=PRIVATE):
            pass
    path = tmp_path / FILE_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink()
    if kept is not None:
        path.write_bytes(b"".join(lines[:kept]) + lines[kept][:40])
    releases = Releases(tmp_path)
    assert releases.spent(PRIVATE).lost and releases.sequence == 2
    with (
        pytest.raises(Withheld, match=r"releases\.jsonl: lacks contributions that this site signed"),
        signed_as_next(tmp_path, prepared(PRIVATE), generate_key(), policy=PRIVATE),
    ):
        pytest.fail("was signed")
    releases.settle(1.5, PRIVATE)
    settled = Releases(tmp_path)
    assert not settled.lost and settled.sequence == 2
    settled.refuse(told, PRIVATE)


# --- the file --------------------------------------------------------------------------------------------


def header(noisy: Policy, **more: Any) -> ContributionHeader:
    noise = noise_of(noisy)
    assert noisy.epsilon is not None and noise is not None
    return ContributionHeader(
        generation="ab" * 32,
        recipe="cd" * 32,
        task="lesion",
        kind="classification",
        classes=("benign", "malignant"),
        row_dim=2,
        feature_dim=1,
        site="alpha",
        sequence=1,
        parts=("classes",),
        privacy=Privacy(epsilon=noisy.epsilon, delta=noisy.delta, clip=1.0, noise=noise),
        **more,
    )


def contribution(noisy: Policy) -> Contribution:
    gram = {(REST, 0): pack(np.diag([30.0, 30.0]))}
    sums = FeatureStatistics(
        ("benign", "malignant"), 2, 1, blocks=gram, absent=("malignant",), patients=np.array([30, 0])
    )
    return Contribution(header(noisy, absent=("malignant",)), sums)


def prepared(noisy: Policy) -> Prepared:
    return Prepared(leaving(noisy=noisy), lambda: contribution(noisy))


def _sign_and_die(folder: Path, key: PrivateKey) -> None:
    with signed_as_next(folder, prepared(PRIVATE), key, policy=PRIVATE):
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_was_signed_is_spent_however_the_process_ends(tmp_path: Path) -> None:
    for times in (1, 2):
        process = multiprocessing.get_context("fork").Process(
            target=_sign_and_die, args=(tmp_path, generate_key())
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert Releases(tmp_path).spent(PRIVATE).noisy == times


def test_nothing_is_signed_that_cannot_be_written_down(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with (
        pytest.raises((InputError, StoreError), match=FILE_NAME),
        signed_as_next(tmp_path, prepared(PRIVATE), generate_key(), policy=PRIVATE),
    ):
        pytest.fail("was signed")


def test_noise_that_was_drawn_in_vain_is_spent_before_it_is_drawn(tmp_path: Path) -> None:
    """Else one could draw until it suits, and each draw tells a little."""

    spent_before: list[int] = []

    def draw() -> Contribution:
        spent_before.append(Releases(tmp_path).spent(PRIVATE).noisy)
        raise Withheld("contribution: no class stands out of the noise")

    for _ in range(2):
        with (
            pytest.raises(Withheld, match="no class stands out"),
            signed_as_next(tmp_path, Prepared(leaving(noisy=PRIVATE), draw), generate_key(), policy=PRIVATE),
        ):
            pytest.fail("was signed")
    assert spent_before == [1, 2] and Releases(tmp_path).spent(PRIVATE).noisy == 2


def test_a_line_cut_off_by_a_power_cut_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    recorded(tmp_path, leaving(*patients(1)))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    assert len(Releases(tmp_path).lines) == 1
    recorded(tmp_path, leaving(*patients(2)))
    assert [one.cohort for one in Releases(tmp_path).lines] == [tuple(patients(1)), tuple(patients(2))]
    assert path.stat().st_mode & 0o077 == 0


def test_a_line_of_an_older_version_is_read_and_compared_whatever_its_backbone(tmp_path: Path) -> None:
    old = {
        "when": "2026-11-01T10:00:00+00:00",
        "sequence": 1,
        "generation": "ab" * 32,
        "task": "lesion",
        "parts": ["classes"],
        "noise": None,
        "cohort": sorted(patients(*range(40))),
    }
    (tmp_path / FILE_NAME).write_text(json.dumps(old) + "\n")
    (line,) = Releases(tmp_path).lines
    assert line.exact and line.when == datetime(2026, 11, 1, 10, tzinfo=UTC)
    with pytest.raises(Withheld, match="differs by 1 patient from the contribution of 2026-11-01"):
        Releases(tmp_path).refuse(leaving(*patients(*range(41)), generation="ef"), Policy())


@pytest.mark.parametrize(
    "damage",
    [b"no json", b'{"when":1}', b"\xff", b"[]", "when", "noise", "sequence", "state", "parts"],
    ids=str,
)
def test_a_damaged_file_is_refused(damage: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    recorded(tmp_path, leaving(*patients(1), noisy=PRIVATE))
    if isinstance(damage, str):
        damage = json.dumps(json.loads(path.read_text()) | {damage: "yesterday"}).encode()
    path.write_bytes(path.read_bytes() + damage + b"\n")
    with pytest.raises(StoreError, match=f"{FILE_NAME}: is damaged: what has left is not known"):
        Releases(tmp_path)


@pytest.mark.parametrize("name", [FILE_NAME, "sequence"])
def test_what_is_no_file_is_refused_without_waiting_for_it(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises((StoreError, InputError), match=f"{name}: not a file"):
        Releases(tmp_path)
