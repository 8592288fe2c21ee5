"""What was signed is written down first, and decides what may be signed next."""

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
from fedmed_edge.federation.releases import (
    FILE_NAME,
    read_releases,
    record,
    refuse,
    refuse_exhausted,
    spent,
)
from fedmed_edge.federation.sequence import signed_as_next
from fedmed_edge.signing import PrivateKey, generate_key
from fedmed_edge.statistics.accounting import composed_multiplier, epsilon_of, noise_multiplier
from fedmed_edge.statistics.contribution import Contribution
from fedmed_edge.statistics.feature_statistics import REST, FeatureStatistics, pack
from fedmed_edge.statistics.header import ContributionHeader, Privacy

PRIVATE = Policy(epsilon=1.0, delta=1e-5, budget=2.5)


def header(*, generation: str = "ab", noisy: Policy | None = None, **more: Any) -> ContributionHeader:
    values: dict[str, Any] = {
        "generation": generation * 32,
        "recipe": "cd" * 32,
        "task": "lesion",
        "kind": "classification",
        "classes": ("benign", "malignant"),
        "row_dim": 2,
        "feature_dim": 1,
        "site": "alpha",
        "sequence": 1,
        "parts": ("classes",),
    }
    if noisy is not None and noisy.epsilon is not None:
        noise = noise_multiplier(noisy.epsilon, noisy.delta)
        values["privacy"] = Privacy(epsilon=noisy.epsilon, delta=noisy.delta, clip=1.0, noise=noise)
    return ContributionHeader(**(values | more))


def patients(*numbers: int, of: str = "benign") -> frozenset[str]:
    return frozenset(f"{number:064x} {of}" for number in numbers)


# --- the privacy budget ----------------------------------------------------------------------------------


def test_noisy_contributions_are_counted_together_until_the_budget_is_exhausted(tmp_path: Path) -> None:
    one = noise_multiplier(1.0, 1e-5)
    allowed = 0
    while spent(read_releases(tmp_path), PRIVATE).left:
        told = header(noisy=PRIVATE, generation=f"{allowed:02x}")
        refuse(read_releases(tmp_path), PRIVATE, told, frozenset())
        record(tmp_path, told, frozenset())
        allowed += 1
    stands = spent(read_releases(tmp_path), PRIVATE)
    assert stands.noisy == allowed == 5 and stands.left == 0 and stands.exact == 0
    assert stands.epsilon == pytest.approx(epsilon_of(composed_multiplier([one] * allowed), 1e-5))
    assert stands.epsilon <= 2.5 < epsilon_of(composed_multiplier([one] * (allowed + 1)), 1e-5)
    message = r"privacy budget: ε 2\.\d+ of 2.5 is spent, another contribution takes 1"
    with pytest.raises(Withheld, match=message) as caught:
        refuse(read_releases(tmp_path), PRIVATE, header(noisy=PRIVATE, generation="ff"), frozenset())
    assert "`budget`" in (caught.value.hint or "")
    with pytest.raises(Withheld, match="privacy budget"):
        refuse_exhausted(read_releases(tmp_path), PRIVATE)


def test_a_contribution_of_just_the_budget_fits_once(tmp_path: Path) -> None:
    policy = Policy(epsilon=3.0, budget=3.0)
    assert spent([], policy).left == 1
    record(tmp_path, header(noisy=policy), frozenset())
    stands = spent(read_releases(tmp_path), policy)
    assert stands.epsilon == pytest.approx(3.0) and stands.left == 0


def test_what_left_without_noise_is_told_apart(tmp_path: Path) -> None:
    record(tmp_path, header(), frozenset())
    stands = spent(read_releases(tmp_path), Policy())
    assert (stands.epsilon, stands.left, stands.noisy, stands.exact) == (0.0, None, 0, 1)


def test_a_site_without_noise_needs_no_accountant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting.gaussian_mechanism", None)
    record(tmp_path, header(), patients(*range(20)))
    before = read_releases(tmp_path)
    refuse(before, Policy(), header(), patients(*range(20)))
    refuse_exhausted(before, Policy())
    assert spent(before, Policy()).exact == 1
    with pytest.raises(ModuleNotFoundError, match="dp_accounting"):
        spent(before, PRIVATE)


def test_a_contribution_without_the_noise_that_the_policy_asks_for_is_not_signed(tmp_path: Path) -> None:
    for policy, told in ((PRIVATE, header()), (Policy(), header(noisy=PRIVATE))):
        with pytest.raises(Withheld, match="`epsilon` is not what the contribution was made with"):
            refuse([], policy, told, frozenset())


# --- updates ---------------------------------------------------------------------------------------------


def test_an_update_that_differs_by_few_patients_stays(tmp_path: Path) -> None:
    first, policy = patients(*range(40)), Policy(min_cohort=10)
    record(tmp_path, header(), first)
    before = read_releases(tmp_path)
    refuse(before, policy, header(), first)
    refuse(before, policy, header(), first | patients(*range(40, 50)))
    refuse(before, policy, header(generation="ef"), first | patients(40))
    refuse(before, policy, header(absent=("malignant",)), first | patients(40, of="malignant"))
    few = {
        "one came": first | patients(40),
        "nine came": first | patients(*range(40, 49)),
        "one went": first - patients(0),
        "ten came and one went": (first | patients(*range(40, 50))) - patients(0),
        "ten came, one of another class": first | patients(*range(40, 50)) | patients(50, of="malignant"),
    }
    for case, now in few.items():
        with pytest.raises(
            Withheld, match=r"policy: a class differs by \d patients from the contribution of"
        ):
            refuse(before, policy, header(), now)
        refuse(before, Policy(min_cohort=10, update_patients=1), header(), now)
        assert case


def test_an_update_under_a_draft_is_compared_though_it_has_no_classes(tmp_path: Path) -> None:
    draft = header(parts=("unlabelled", "images"), absent=("benign", "malignant"))
    record(tmp_path, draft, patients(*range(40)))
    refuse(read_releases(tmp_path), Policy(), draft, patients(*range(40)))
    with pytest.raises(Withheld, match="differs by 1 patients"):
        refuse(read_releases(tmp_path), Policy(), draft, patients(*range(41)))


def test_where_wide_grams_are_refused_so_are_wide_differences(tmp_path: Path) -> None:
    first = patients(*range(40))
    record(tmp_path, header(row_dim=6), first)
    before, strict = read_releases(tmp_path), Policy(width_rule="refuse")
    with pytest.raises(Withheld, match=r"differs by 17 patients .* expected 0 or at least 18"):
        refuse(before, strict, header(row_dim=6), first | patients(*range(40, 57)))
    refuse(before, strict, header(row_dim=6), first | patients(*range(40, 58)))
    refuse(before, Policy(), header(row_dim=6), first | patients(*range(40, 57)))


def test_an_update_is_compared_with_every_contribution_before(tmp_path: Path) -> None:
    first = patients(*range(40))
    record(tmp_path, header(), first)
    record(tmp_path, header(), first | patients(*range(40, 60)))
    with pytest.raises(Withheld, match="differs by 1 patients"):
        refuse(read_releases(tmp_path), Policy(), header(), first | patients(40))


def test_an_update_that_comes_too_early_stays(tmp_path: Path) -> None:
    record(tmp_path, header(), frozenset())
    before, policy, now = read_releases(tmp_path), Policy(days_between=7), datetime.now(UTC)
    with pytest.raises(
        Withheld, match=r"the last contribution left on .* `days_between` 7 between two"
    ) as caught:
        refuse(before, policy, header(), frozenset(), now + timedelta(days=6))
    assert "contribute on" in (caught.value.hint or "")
    refuse(before, policy, header(), frozenset(), now + timedelta(days=7, minutes=1))
    refuse(before, policy, header(generation="ef"), frozenset(), now)
    refuse(before, policy, header(parts=("weights",), row_dim=0, feature_dim=0), frozenset(), now)


# --- the file --------------------------------------------------------------------------------------------


def contribution(noisy: Policy) -> Contribution:
    gram = {(REST, 0): pack(np.diag([30.0, 30.0]))}
    sums = FeatureStatistics(
        ("benign", "malignant"), 2, 1, blocks=gram, absent=("malignant",), patients=np.array([30, 0])
    )
    return Contribution(header(noisy=noisy, absent=("malignant",)), sums)


def _sign_and_die(folder: Path, key: PrivateKey) -> None:
    with signed_as_next(folder, contribution(PRIVATE), key, policy=PRIVATE, cohort=frozenset()):
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_was_signed_is_spent_however_the_process_ends(tmp_path: Path) -> None:
    for times in (1, 2):
        process = multiprocessing.get_context("fork").Process(
            target=_sign_and_die, args=(tmp_path, generate_key())
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert spent(read_releases(tmp_path), PRIVATE).noisy == times


def test_nothing_is_signed_that_cannot_be_written_down(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with (
        pytest.raises((InputError, StoreError), match=FILE_NAME),
        signed_as_next(tmp_path, contribution(PRIVATE), generate_key(), policy=PRIVATE, cohort=frozenset()),
    ):
        pytest.fail("was signed")


def test_a_line_cut_off_by_a_power_cut_is_written_over_and_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    record(tmp_path, header(), patients(1))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    assert len(read_releases(tmp_path)) == 1
    record(tmp_path, header(), patients(2))
    assert [one.cohort for one in read_releases(tmp_path)] == [tuple(patients(1)), tuple(patients(2))]
    assert path.stat().st_mode & 0o077 == 0
    for damaged in (b"no json\n", b'{"when":1}\n', b"\xff\n", b"[]\n"):
        path.write_bytes(whole + damaged)
        with pytest.raises(StoreError, match=f"{FILE_NAME}: is damaged: what has left is not known"):
            read_releases(tmp_path)
