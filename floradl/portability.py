"""What Linux has and other systems lack, each with a plain substitute; nobody else calls these.

On macOS: `fsync` leaves the bytes in the drive's cache, F_FULLFSYNC (fcntl(2)) does not; `renameatx_np` is
its `renameat2`; descriptors go over stream sockets, for Unix sockets have no packets. What has no equal there
is weaker: `weaknesses` says so.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import socket  # `status` starts without it

_RENAME_NOREPLACE: Final = 1  # renameat2(2)
_RENAME_EXCL: Final = 4  # renameatx_np(2) of macOS
_KEEP_SIZE: Final = 1  # fallocate(2)
_P_PID, _WEXITED, _WNOWAIT = 1, 4, 0x20 if sys.platform == "darwin" else 0x01000000  # waitid(2)
_UMASK: Final = re.compile(rb"^Umask:\s*([0-7]+)", re.MULTILINE)
_STATFS_BYTES, _TYPE_AT, _TYPE_BYTES = 4096, 72, 16  # statfs(2) of macOS, with 64-bit inodes: 2,168 bytes
_FD_BYTES: Final = 4
_HEAD: Final = 4  # bytes that say how long a message on a stream is
_NO_FULL_SYNC: Final = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}

# By name, so that each may be missing.
_fadvise: Callable[[int, int, int, int], None] | None = getattr(os, "posix_fadvise", None)
_affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
_memfd: Callable[[str], int] | None = getattr(os, "memfd_create", None)
_waitid: Callable[[int, int, int], object] | None = getattr(os, "waitid", None)
_full_sync: int | None = getattr(fcntl, "F_FULLFSYNC", None)
_set_lease: int | None = getattr(fcntl, "F_SETLEASE", None)
_set_signal: int | None = getattr(fcntl, "F_SETSIG", None)

SEARCH_ONLY: Final[int] = getattr(os, "O_PATH", getattr(os, "O_SEARCH", os.O_RDONLY))
"""The flag of open(2) for a folder that is only gone through; in the last case it must be readable, too."""


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _function(*names: str) -> Any:
    """Return the first of `names` that the C library has, else None."""
    found = (getattr(_libc(), name, None) for name in names)
    return next((each for each in found if each is not None), None)


def weaknesses() -> tuple[str, ...]:
    """Say, for a person, what is weaker on this system than on Linux; empty where nothing is."""
    found = []
    if _set_lease is None:
        found.append("a job file that was not moved in is taken once it was quiet for 2 s (no file leases)")
    if _exclusive()[0] is None:
        found.append("files get their names by link and unlink (no rename that replaces nothing)")
    if _fadvise is None:
        found.append("large downloads fill the disk cache (no posix_fadvise)")
    if not Path("/proc/self/mountinfo").exists() and _function(*_STATFS) is None:
        found.append(
            "network file systems are not recognised: keep state_dir on a local disk yourself (no mountinfo)"
        )
    return tuple(found)


def cores() -> int:
    """Return how many processors this process may use."""
    return len(_affinity(0)) if _affinity is not None else os.cpu_count() or 1


def mark_sequential(fd: int) -> None:
    """Have the kernel read ahead in a file that is read from its beginning to its end."""
    if _fadvise is not None:
        with suppress(OSError):
            _fadvise(fd, 0, 0, 2)  # POSIX_FADV_SEQUENTIAL


def drop_cached(fd: int, offset: int = 0, size: int = 0) -> None:
    """Have the kernel's memory let go of `size` bytes from `offset` on, for 0 of all up to the end.

    What is not on disk yet stays. Its pages are used anew: fresh ones are dear on a virtual machine, whose
    host has to find them, and on a machine that has been up for long, which has to take them from somebody.
    """
    if _fadvise is not None:
        with suppress(OSError):  # it is advice, and not every file system takes any
            _fadvise(fd, offset, size, 4)  # POSIX_FADV_DONTNEED


def reserve(fd: int, size: int) -> bool:
    """Have the disk keep room for the first `size` bytes of a file, whose size stays; return whether it does.

    fallocate(2) itself, where the C library's `posix_fallocate` writes zeros if the file system cannot.
    """
    fallocate = _fallocate()
    if fallocate is None:
        return False
    done: bool = fallocate(fd, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size)) == 0
    return done


@cache
def _fallocate() -> Any:
    return _function("fallocate64", "fallocate") if sys.platform == "linux" else None


def flush(fd: int) -> None:
    """Put a file or folder on disk, through the drive's cache. Raises `OSError`."""
    if _full_sync is not None:
        try:
            fcntl.fcntl(fd, _full_sync)
        except OSError as error:
            if error.errno not in _NO_FULL_SYNC:
                raise
        else:
            return
    os.fsync(fd)


def begin_flush(fd: int, offset: int = 0, size: int = 0) -> None:
    """Have the disk begin to write `size` bytes from `offset` on, 0 for all; only `flush` says when it has.

    So the bytes of several files are on their way before the first of them is waited for. Raises `OSError`,
    once: what ext4 finds no blocks for is dropped, and a flush that follows tells nothing of it (Linux 6.18).
    """
    begin = _sync_file_range()
    write = 2  # SYNC_FILE_RANGE_WRITE
    if begin is not None and begin(fd, ctypes.c_int64(offset), ctypes.c_int64(size), write) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def has_hole(fd: int, size: int) -> bool:
    """Whether the disk holds nothing of some of a file's first `size` bytes, which read as zeros then."""
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE) < size
    except OSError:  # not every file system knows
        return False


@cache
def _sync_file_range() -> Any:
    return _function("sync_file_range") if sys.platform == "linux" else None


def rename_exclusive(folder: int, old: str, to: int, new: str) -> int:
    """Rename between two open folders, replacing nothing; return 0 or the error number.

    That is `ENOSYS` where the system cannot.
    """
    rename, flag = _exclusive()
    if rename is None:
        return errno.ENOSYS
    done = rename(folder, os.fsencode(old), to, os.fsencode(new), flag) == 0
    return 0 if done else ctypes.get_errno()


@cache
def _exclusive() -> tuple[Any, int]:
    ours = _function("renameat2")
    return (_function("renameatx_np"), _RENAME_EXCL) if ours is None else (ours, _RENAME_NOREPLACE)


def take_read_lease(fd: int) -> bool | None:
    """Whether nobody has the file open for writing, until `fd` is closed; None where that is unknown."""
    if _set_lease is None or _set_signal is None:
        return None
    try:
        # A writer that comes now is announced by a signal. The default one, SIGIO, would end the process;
        # SIGURG is ignored unless somebody asked for it.
        fcntl.fcntl(fd, _set_signal, signal.SIGURG)
        fcntl.fcntl(fd, _set_lease, fcntl.F_RDLCK)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    return True


@cache
def umask() -> int:
    """Return the process's umask, read once.

    Where the system does not show it, it is set and set back: a file that another thread makes in that moment
    is for its owner alone.
    """
    with suppress(OSError):
        if found := _UMASK.search(Path("/proc/self/status").read_bytes()):
            return int(found[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def unnamed_file(data: bytes) -> int:
    """Return the descriptor of a file that no name leads to, at the beginning of its `data`."""
    if _memfd is not None:
        fd = _memfd("floradl")
    else:
        import tempfile  # noqa: PLC0415 - here alone

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def wait_until_exited(pid: int) -> None:
    """Wait for the end of a child, which stays to be reaped. Raises `ChildProcessError`. Blocking."""
    if _waitid is not None:
        _waitid(_P_PID, pid, _WEXITED | _WNOWAIT)
        return
    told = ctypes.create_string_buffer(256)
    while _libc().waitid(_P_PID, pid, told, _WEXITED | _WNOWAIT):
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


_STATFS: Final = ("statfs$INODE64", "statfs") if sys.platform == "darwin" else ("statfs$INODE64",)


def filesystem_by_statfs(path: Path) -> str | None:
    """Return the type of the file system of `path` as macOS names it (`apfs`, `smbfs`); None elsewhere."""
    statfs = _function(*_STATFS)
    if statfs is None:
        return None
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if statfs(os.fsencode(path), found) != 0:
        return None
    return found.raw[_TYPE_AT : _TYPE_AT + _TYPE_BYTES].partition(b"\0")[0].decode("ascii", "replace") or None


def message_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets for `send_message` and `receive_message`."""
    import socket  # noqa: PLC0415 - see above

    return socket.socketpair(socket.AF_UNIX, getattr(socket, "SOCK_SEQPACKET", socket.SOCK_STREAM))


def send_message(end: socket.socket, data: bytes, fd: int | None) -> None:
    """Send a message, and the open file `fd` with it; of several threads one at a time. Raises `OSError`."""
    import socket  # noqa: PLC0415 - see above

    if end.type == socket.SOCK_STREAM:
        data = len(data).to_bytes(_HEAD, "big") + data
    sent = 0 if fd is None else socket.send_fds(end, [data], [fd])
    if sent < len(data):
        end.sendall(memoryview(data)[sent:])


def receive_message(end: socket.socket, space: bytearray) -> tuple[int, int | None]:
    """Receive a message into `space`; return its size, 0 for the end, and the file that came with it.

    One that does not fit is the end, too. Raises `OSError`.
    """
    import socket  # noqa: PLC0415 - see above

    if end.type != socket.SOCK_STREAM:
        return _with_fd(end, space)
    head, got = bytearray(_HEAD), 0
    fd: int | None = None
    try:
        while got < _HEAD:  # what comes with a message comes with its first byte
            size, came = _with_fd(end, memoryview(head)[got:])
            fd = came if fd is None else fd
            if size == 0:
                return 0, fd
            got += size
        length = int.from_bytes(head, "big")
        return (_fill(end, memoryview(space)[:length]) if length <= len(space) else 0), fd
    except OSError:
        if fd is not None:
            os.close(fd)
        raise


def _fill(end: socket.socket, space: memoryview) -> int:
    """Receive as much as `space` has room for; return how much that is, 0 where it ends before."""
    got = 0
    while got < len(space):
        size = end.recv_into(space[got:])
        if size == 0:
            return 0
        got += size
    return got


def _with_fd(end: socket.socket, space: bytearray | memoryview) -> tuple[int, int | None]:
    import socket  # noqa: PLC0415 - see above

    closed_by_exec = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    size, extra, _, _ = end.recvmsg_into([space], socket.CMSG_SPACE(_FD_BYTES), closed_by_exec)
    fd = next((int.from_bytes(data[:_FD_BYTES], sys.byteorder) for *_, data in extra), None)
    if fd is not None and not closed_by_exec:
        os.set_inheritable(fd, False)
    return size, fd
