"""Waits between tries."""

from fedmed_edge.backoff import wait_s


def test_waits_grow_to_the_longest_and_stay_there() -> None:
    waits = [wait_s(failures, 5, 3600) for failures in range(5000)]
    assert 4 <= waits[0] <= 5 and 8 <= waits[1] <= 10
    assert min(waits[15:]) >= 2880 and max(waits) <= 3600


def test_many_who_failed_at_once_do_not_come_back_at_once() -> None:
    assert len({wait_s(3, 5, 3600) for _ in range(20)}) > 10
