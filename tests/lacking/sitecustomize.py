"""Takes away what macOS lacks, from a Python that is started with this folder in PYTHONPATH.

`LACKING_LOG` names a file that gets a line for each such process: its arguments.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import sys
from collections.abc import Callable
from typing import Any, NoReturn

for _name in [name for name in vars(select) if name.lower().startswith("epoll")]:
    delattr(select, _name)
import socket  # noqa: E402 - it imports selectors, which looks for epoll

# As of macOS 15 and CPython 3.11 to 3.14, by typeshed and the manual pages of both systems.
_ABSENT: dict[Any, tuple[str, ...]] = {
    os: (
        *("sched_getaffinity", "sched_setaffinity", "posix_fadvise", "posix_fallocate", "fdatasync", "pipe2"),
        *("memfd_create", "pidfd_open", "copy_file_range", "splice", "eventfd", "waitid", "getrandom"),
        *("getxattr", "setxattr", "listxattr", "O_PATH", "O_TMPFILE", "O_DIRECT", "O_NOATIME", "P_PIDFD"),
        *("POSIX_FADV_DONTNEED", "POSIX_FADV_SEQUENTIAL", "POSIX_FADV_WILLNEED"),
    ),
    socket: (
        *(
            "SOCK_SEQPACKET",
            "SOCK_NONBLOCK",
            "SOCK_CLOEXEC",
            "MSG_CMSG_CLOEXEC",
            "MSG_NOSIGNAL",
            "SO_PEERCRED",
        ),
        *("MSG_ERRQUEUE", "MSG_MORE", "TCP_USER_TIMEOUT", "TCP_QUICKACK", "TCP_CORK", "AF_NETLINK"),
    ),
    fcntl: (
        *("F_SETLEASE", "F_GETLEASE", "F_SETSIG", "F_GETSIG", "F_NOTIFY", "F_ADD_SEALS", "F_SETPIPE_SZ"),
        *("F_OFD_SETLK", "F_OFD_GETLK", "F_OFD_SETLKW"),
    ),
    errno: ("ENONET", "EREMOTEIO", "ENOMEDIUM", "EUCLEAN", "ENOKEY", "EBADFD", "ECOMM", "ENOTUNIQ"),
}
_NO_FUNCTIONS = frozenset(
    {
        *("renameat2", "inotify_init", "inotify_init1", "inotify_add_watch", "prctl", "syncfs", "mallopt"),
        *("fallocate", "posix_fallocate", "memfd_create", "eventfd", "signalfd", "timerfd_create", "statx"),
        *("epoll_create1", "sync_file_range", "malloc_trim", "copy_file_range", "posix_fadvise", "syscall"),
    }
)
_SEQPACKET = 5


def _in_proc(path: object) -> bool:
    try:
        text = os.fsdecode(path)  # type: ignore[arg-type]  # a descriptor is none
    except TypeError:
        return False
    return text == "/proc" or text.startswith("/proc/")


def _missing(path: object) -> NoReturn:
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _hide_proc(event: str, arguments: tuple[Any, ...]) -> None:
    if event in {"open", "os.listdir", "os.scandir"} and arguments and _in_proc(arguments[0]):
        _missing(arguments[0])


def _without_proc(name: str) -> None:
    real: Callable[..., Any] = getattr(os, name)

    def call(path: Any, *arguments: Any, **options: Any) -> Any:
        if _in_proc(path):
            _missing(path)
        return real(path, *arguments, **options)

    for able in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks, os.supports_effective_ids):
        if real in able:
            able.add(call)
    setattr(os, name, call)


def _take_away() -> None:
    for module, names in _ABSENT.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    find = ctypes.CDLL.__getattr__

    def function(library: ctypes.CDLL, name: str) -> Any:
        if name in _NO_FUNCTIONS:
            raise AttributeError(name)
        return find(library, name)

    pair = socket.socketpair

    def streams_only(family: Any = None, kind: int = socket.SOCK_STREAM, proto: int = 0) -> Any:
        if kind == _SEQPACKET:
            raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))
        return pair(family, kind, proto)

    ctypes.CDLL.__getattr__ = function  # type: ignore[method-assign]
    socket.socketpair = streams_only  # type: ignore[assignment]  # it is called as ours calls it
    for name in ("stat", "lstat", "readlink", "access"):
        _without_proc(name)
    sys.addaudithook(_hide_proc)


_take_away()
if log := os.environ.get("LACKING_LOG"):
    with open(log, "a", encoding="utf-8") as stream:  # noqa: PTH123 - the fewest imports
        stream.write(" ".join(sys.orig_argv) + "\n")
