"""Files and folders on the file systems that there are: locks, and those that have none."""

from __future__ import annotations

import errno
import fcntl
import logging
import os

import pytest

from rankdistill.files import AtWork, alone_in


def test_a_lock_of_a_folder_holds_where_only_files_open_for_writing_are_locked(tmp_path, monkeypatch):
    """As flock does on NFS."""
    real = fcntl.flock

    def flock(handle: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with alone_in(tmp_path, "test", "work"):
        with pytest.raises(
            AtWork, match="test: expected .* for this work alone; got another one at work in it"
        ):
            alone_in(tmp_path, "test", "work").__enter__()
        with alone_in(tmp_path, "test", "part of it", ".part.lock"):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", ["ENOLCK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog, code):
    def flock(handle: int, operation: int) -> None:
        raise OSError(getattr(errno, code), "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING, "rankdistill"), alone_in(tmp_path, "test", "work"):
        assert f"test: no locks in {tmp_path} (No locks available)" in caplog.text
    assert not list(tmp_path.iterdir())


def test_any_other_failure_of_a_lock_is_an_error(tmp_path, monkeypatch):
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"):
        alone_in(tmp_path, "test", "work").__enter__()


def test_a_folder_that_may_only_be_read_is_not_locked(tmp_path, monkeypatch):
    real = os.open

    def opened(path, flags: int, *rest, **options) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(OSError, match="Read-only"):
        alone_in(tmp_path, "test", "work").__enter__()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with alone_in(tmp_path, "test", "work"):
        assert not list(tmp_path.iterdir())
