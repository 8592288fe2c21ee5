"""Whole or not at all."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmed_edge.atomic import locked, map_regular, read_regular, write_atomic, write_together
from fedmed_edge.errors import InputError


def test_pieces_are_written_with_the_asked_mode(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", [b"one ", memoryview(b"two")], mode=0o600)
    assert (tmp_path / "file").read_bytes() == b"one two"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path: Path, failure: BaseException) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise failure

    file = tmp_path / "file"
    file.write_bytes(b"old")
    with pytest.raises((InputError, KeyboardInterrupt)):
        write_atomic(file, pieces())
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_disk_that_fills_up_on_flushing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="file: cannot be written: No space left on device") as refusal:
        write_atomic(tmp_path / "file", b"x")
    assert "has room" in str(refusal.value.hint)
    assert not list(tmp_path.iterdir())


def test_a_private_key_is_not_written_over(tmp_path: Path) -> None:
    key = tmp_path / "site.key"
    key.write_bytes(b"-----BEGIN PRIVATE KEY-----\nabc")
    with pytest.raises(InputError, match=r"site\.key: is a private key and is not written over"):
        write_atomic(key, b"a model")
    assert key.read_bytes().endswith(b"abc")


def test_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match="not a file"):
            read_regular(path, 1 << 20)
    with pytest.raises(InputError, match="no such file"):
        read_regular(tmp_path / "none", 1)
    write_atomic(tmp_path / "two", b"ab")
    with pytest.raises(InputError, match="has 2 bytes, expected at most 1"):
        read_regular(tmp_path / "two", 1)


def test_a_mapped_file_reads_as_a_file_does(tmp_path: Path) -> None:
    for content in (b"", b"x" * 10_000):
        (tmp_path / "f").write_bytes(content)
        assert map_regular(tmp_path / "f", 10_000)[:] == content == read_regular(tmp_path / "f", 10_000)
    for read in (map_regular, read_regular):
        with pytest.raises(InputError, match="f: has 10000 bytes, expected at most 9999"):
            read(tmp_path / "f", 9999)
        with pytest.raises(InputError, match="g: no such file"):
            read(tmp_path / "g", 1)


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_files_that_belong_together_change_together(tmp_path: Path, failure: BaseException) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise failure

    one, other = tmp_path / "one", tmp_path / "other"
    write_together({one: b"1", other: b"2"})
    assert (one.read_bytes(), other.read_bytes()) == (b"1", b"2")
    with pytest.raises((InputError, KeyboardInterrupt)) as refusal:
        write_together({one: b"new", other: pieces()})
    if isinstance(failure, OSError):
        assert str(refusal.value) == f"{other}: cannot be written: No space left on device"
    assert (one.read_bytes(), other.read_bytes()) == (b"1", b"2")
    assert sorted(tmp_path.iterdir()) == [one, other]


def test_a_lock_that_is_held_is_told_or_waited_for(tmp_path: Path) -> None:
    inside, done, order = threading.Event(), threading.Event(), []

    def first() -> None:
        with locked(tmp_path / "run" / "lock"):
            inside.set()
            done.wait(10)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)
    with (
        pytest.raises(InputError, match="a server is running here already") as refusal,
        locked(
            tmp_path / "run" / "lock", busy="a server is running here already", hint="stop that one first"
        ),
    ):
        pass
    assert refusal.value.hint == "stop that one first"
    done.set()
    with locked(tmp_path / "run" / "lock"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with (
        pytest.raises(InputError, match="lock: cannot be written: Is a directory"),
        locked(tmp_path / "lock"),
    ):
        pass
