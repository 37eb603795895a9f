"""What `floradl check` looks at on this machine: folders, disks, the watcher's limits, what it listens at."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

from floradl.commands.check import CheckLevel, CheckResult, fail, ok, warn
from floradl.commands.check.group import check_group, state_writers
from floradl.commands.daemon_state import read_counts
from floradl.config.credentials import find_webhook_secrets, read_web_token
from floradl.config.settings import Config
from floradl.daemon import gallery
from floradl.daemon.startup import files_elsewhere, library_before, unmounted_below, was_seen
from floradl.errors import ConfigError, FloradlError, PauseReason, ServicePausedError
from floradl.fs.durable import PartFile
from floradl.fs.folders import FolderFd, open_root
from floradl.fs.mounts import filesystem, is_shared, probe
from floradl.fs.names import SafeName
from floradl.fs.permissions import user_name
from floradl.library_builder import bucket_access, build_library
from floradl.net.addresses import Endpoint
from floradl.portability import weaknesses
from floradl.queue import folder as state_folder
from floradl.sources.folder_events import InotifyEvents, InotifyLimitError, has_inotify
from floradl.units import format_duration, format_size
from floradl.web import metrics, webhooks
from floradl.web.server import explained

_PATIENCE = 2.0  # seconds
_STATE_FLOOR = 64 * 1024 * 1024  # bytes; the journal of 100,000 runs takes half of that
_FEWEST_INODES = 100
_ENOUGH = {"fs.inotify.max_user_instances": 1024, "fs.inotify.max_user_watches": 524_288}
_REMEDIES = {
    errno.EROFS: "it is mounted read-only: mount it for writing",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room on its disk"),
}
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def check_listening(config: Config, environ: Mapping[str, str], *, daemon: bool) -> Iterator[CheckResult]:
    """Check the addresses to listen at; `daemon`: one runs, and has them."""
    places: dict[Endpoint, str] = {}
    listens = {"webhook.listen": config.webhook.listen, "metrics.listen": config.metrics.listen}
    for setting, endpoint in listens.items():
        if endpoint is not None:
            places[endpoint] = f"{places[endpoint]} and {setting}" if endpoint in places else setting
    for endpoint, setting in places.items():
        yield _answered(endpoint, setting) if daemon else _free(endpoint, setting)
    if config.web.listen is not None:
        yield _gallery(config, config.web.listen, daemon=daemon)
    if config.webhook.listen is not None:
        yield _secret(config, environ)
    if config.metrics.listen is not None and not metrics.installed():
        yield warn("metrics", metrics.MISSING)


def _gallery(config: Config, endpoint: Endpoint, *, daemon: bool) -> CheckResult:
    if not gallery.installed():
        return fail("web.listen", gallery.MISSING)
    try:
        read_web_token(config)
    except ConfigError as error:
        return fail("web.token_file", str(error))
    return _answered(endpoint, "web.listen") if daemon else _free(endpoint, "web.listen")


def _free(endpoint: Endpoint, setting: str) -> CheckResult:
    try:
        kind, *_, address = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with closing(socket.socket(kind, socket.SOCK_STREAM)) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen(1)
    except OSError as error:
        return fail(setting, explained(endpoint, error))
    return ok(setting, f"{endpoint} is free")


def _answered(endpoint: Endpoint, setting: str) -> CheckResult:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(endpoint.host, endpoint.host)  # noqa: S104 - not bound
    try:
        with socket.create_connection((host, endpoint.port), _PATIENCE) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: floradl\r\n\r\n")
            answer = connection.recv(4096)
    except OSError as error:
        reason = "nobody answers" if error.errno == errno.ECONNREFUSED else str(error.strerror or error)
        return fail(setting, f"the daemon does not listen at {endpoint} ({reason}): its log says why")
    if b"\r\nserver: floradl\r\n" not in answer.lower():
        return fail(setting, explained(endpoint, OSError(errno.EADDRINUSE, "")))
    return ok(setting, f"the daemon listens at {endpoint}")


def _secret(config: Config, environ: Mapping[str, str]) -> CheckResult:
    try:
        found = find_webhook_secrets(config, environ)
    except ConfigError as error:
        return fail("webhook secret", str(error))
    if not found.secrets:
        return fail("webhook secret", webhooks.MISSING)
    if not all(secret.reveal().startswith("whsec_") for secret in found.secrets):
        return warn("webhook secret", f"what {found.place} holds does not start with whsec_, as FLORA's do")
    number = len(found.secrets)
    return ok("webhook secret", f"from {found.place}" + (f", {number} of them" if number > 1 else ""))


def check_machine(config: Config, *, daemon: bool) -> Iterator[CheckResult]:
    """Check folders and disks; what is written for a trial is removed. `daemon`: one is at work there."""
    yield _watch_folder(config.queue.watch_dir)
    yield _inotify(config.queue.watch_dir)
    yield from (warn("system", weakness) for weakness in weaknesses())
    yield from _library(config)
    yield from _kept(config)
    yield _state_folder(config, daemon=daemon)
    yield from _user(config)
    yield from check_group(config)
    yield from _space(config)


def _watch_folder(folder: Path) -> CheckResult:
    if (trouble := _trouble("watch folder", folder, "queue.watch_dir")) is not None:
        return trouble
    if is_shared(folder):
        message = f"{folder} is on {filesystem(folder)}, where no event reports a new file"
        message += ": it is looked at each 2 s, and a file taken when quiet for 2 s"
        return warn("watch folder", message)
    return ok("watch folder", _standing(folder))


def _inotify(folder: Path) -> CheckResult:
    if not has_inotify():
        return ok("inotify", "this system has none: watchfiles reports new job files")
    try:
        InotifyEvents([_nearest(folder)]).close()
    except InotifyLimitError as error:
        message = f"{error.limit} is used up: new job files are seen each 2 s only, not at once"
        remedy = f"as root: sysctl {error.limit}={_ENOUGH[error.limit]}, and the same in /etc/sysctl.d"
        return warn("inotify", message, remedy)
    except OSError as error:
        if error.errno in {errno.ENOSYS, errno.EPERM}:
            return warn("inotify", "this system has none: new job files are seen each 2 s only, not at once")
    return ok("inotify", "can watch")


def _library(config: Config) -> Iterator[CheckResult]:
    place = config.output.dir
    if isinstance(place, Path):
        yield _library_missing(config) or _folder(place, config.output.max_name_bytes)
        return
    from floradl.commands.check.bucket import check_bucket  # noqa: PLC0415 - where it is wanted
    from floradl.library.object_store import ObjectLibrary  # noqa: PLC0415 - as above

    try:
        library = build_library(config)
    except ConfigError as error:
        yield fail("library", str(error))
        return
    found = list(check_bucket(library, bucket_access(config))) if isinstance(library, ObjectLibrary) else []
    fails = any(each.level is CheckLevel.FAIL for each in found)
    missing = None if fails else _library_missing(config)
    yield from found if missing is None else (missing, *found[1:])


def _kept(config: Config) -> Iterator[CheckResult]:
    if rules := config.library.keep.by_kind():
        kept = ", ".join(f"{kind} for {format_duration(seconds)}" for kind, seconds in rules.items())
        paid = "" if isinstance(config.output.dir, Path) else "; each is read right before, which is traffic"
        yield ok("library.keep", f"the daemon keeps {kept}, and removes what is older{paid}")


def _folder(folder: Path, longest: int) -> CheckResult:
    if (trouble := _trouble("library", folder, "output.dir", longest)) is not None:
        return trouble
    kind = filesystem(folder)
    if kind in _IN_MEMORY:
        return warn("library", f"{folder} is in memory ({kind}): files are gone when this machine stops")
    if kind == "overlay":
        message = f"{folder} is inside a container, and goes with it"
        return warn("library", message, "mount a volume there")
    if kind in {"vfat", "msdos"}:
        return warn("library", f"{folder} is on {kind}, where a file has 4 GiB at most")
    if is_shared(folder):
        message = f"{folder} is on {kind}: what its server promises in a power cut is all there is"
        return warn("library", message)
    with suppress(OSError), open_root(folder) as fd:  # unless it is to be made yet
        if weak := "; ".join(probe(fd).weaknesses()):
            return warn("library", f"{folder}: {weak}")
    return ok("library", _standing(folder))


def _library_missing(config: Config) -> CheckResult | None:
    """Report a library that is not there, unless it is a new one, which the first start makes."""
    try:
        library = build_library(config)
    except ConfigError as error:
        return fail("library", str(error))
    try:
        library.require()
        return None
    except FloradlError as error:
        new = isinstance(error, ServicePausedError) and error.reason is PauseReason.LIBRARY_MISSING
        with suppress(OSError):
            new = new and not was_seen(config.state_dir, library.location())
        if not new:
            return fail("library", str(error))
    if (point := unmounted_below(library)) is not None:
        message = f"nothing is mounted at {point}, below which {library.location()} is to be"
        return fail("library", message, "mount it, or let output.dir name another folder")
    with suppress(OSError, FloradlError):  # reported as the state folder's
        before = library_before(config.state_dir, library)
        counts = read_counts(config.state_dir) if before else None
        if before and (why := files_elsewhere(library, before, counts or {})) is not None:
            return fail("library", why)
    return None


def _state_folder(config: Config, *, daemon: bool) -> CheckResult:
    folder = config.state_dir
    if is_shared(folder):
        return fail(
            "state folder",
            f"{folder} is on a network file system ({filesystem(folder)}), where the journal is not safe",
            "let state_dir (FLORADL_STATE_DIR) name a folder on a local disk",
        )
    if (trouble := _trouble("state folder", folder, "state_dir")) is not None:
        if daemon and (owner := folder.stat().st_uid) != os.geteuid():
            message = f"{folder} is for {user_name(owner)} alone to write, whose daemon is at work"
            return ok("state folder", message)
        return trouble
    with suppress(OSError):  # where that is unknown, other checks report why
        if (why := state_folder.fault(folder, state_writers(config))) is not None:
            return fail("state folder", why)
    if filesystem(folder) in _IN_MEMORY | {"overlay"}:
        message = (
            f"{folder} is in memory or inside a container, and goes with it: what is queued would be lost"
        )
        return warn("state folder", message, "mount a volume there, or let state_dir name another folder")
    return ok("state folder", _standing(folder))


def _user(config: Config) -> Iterator[CheckResult]:
    folder, what = config.state_dir, "state folder"
    with suppress(OSError):
        if not folder.exists() and config.home in folder.parents:
            folder, what = config.home, "home"
        owner = folder.stat().st_uid
        if owner != os.geteuid() and not state_folder.is_ours(folder):
            message = f"the {what} belongs to {user_name(owner)}, and this is {user_name(os.geteuid())}"
            yield warn("user", message, "check as the user that floradl runs as: its rights are what counts")


def _space(config: Config) -> Iterator[CheckResult]:
    state, place = _nearest(config.state_dir), config.output.dir
    if not isinstance(place, Path):
        yield _room("state disk", state, config.state_dir, _STATE_FLOOR, None)
        return
    library = _nearest(place)
    yield _room("disk", library, place, config.download.min_free_space, "download.min_free_space")
    with suppress(OSError):
        if state.stat().st_dev != library.stat().st_dev:
            yield _room("state disk", state, config.state_dir, _STATE_FLOOR, None)


def _room(name: str, existing: Path, folder: Path, floor: int, setting: str | None) -> CheckResult:
    try:
        found = os.statvfs(existing)
    except OSError as error:
        return fail(name, f"how much room {folder} has is unknown: {error.strerror}")
    free = found.f_bavail * found.f_frsize
    message = f"{format_size(free)} free for {folder}"
    if free < floor:
        needed = f"{message}, and {setting or 'it'} wants {format_size(floor)}: downloads wait"
        return fail(name, needed, "make room" + (f", or lower {setting}" if setting else ""))
    if found.f_files and found.f_favail < _FEWEST_INODES:
        message += ", but there can be no more files (inodes)"
        return fail(name, message, "remove files you do not need")
    return ok(name, message)


def _standing(folder: Path) -> str:
    where = f"{folder} (on {filesystem(folder) or 'an unknown file system'})"
    return where if folder.exists() else f"{where} will be made at the first start"


def _nearest(folder: Path) -> Path:
    return next((path for path in (folder, *folder.parents) if os.path.lexists(path)), Path("/"))


def _trouble(name: str, folder: Path, setting: str, longest: int = 0) -> CheckResult | None:
    existing = _nearest(folder)
    remedy = f"give this user the right to it, or let {setting} name another folder"
    if not existing.is_dir():
        what = "a link that leads nowhere" if existing.is_symlink() else "no folder"
        return fail(name, f"{existing} is {what}", f"remove it, or let {setting} name another folder")
    if existing != folder:
        if not os.access(existing, os.W_OK | os.X_OK):
            return fail(name, f"{folder} cannot be made: {existing} may not be written", remedy)
        return None
    started = time.monotonic()
    try:
        with open_root(folder) as fd:
            _try_out(fd, longest)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            message = f"{folder} takes no names of {longest} bytes"
            return fail(name, message, "set output.max_name_bytes to 143, or to what the file system takes")
        message = f"{folder} cannot be written: {error.strerror}"
        return fail(name, message, _REMEDIES.get(error.errno or 0, remedy))
    took = time.monotonic() - started
    if took > 1:
        return warn(name, f"{folder} took {took:.1f} s to write one small file durably: its disk is slow")
    return None


def _try_out(folder: FolderFd, longest: int) -> None:
    # The way of every file: part file, fsync, a rename that replaces nothing, fsync of the folder.
    stem = f".floradl-check-{secrets.token_hex(4)}"
    part, name = SafeName(f"{stem}.part"), SafeName(f"{stem}.tmp".ljust(longest, "x"))
    try:
        for first in (True, False):
            with PartFile(folder, part) as file:
                file.write(b"floradl check tries out whether it can write here\n")
                file.sync(None)
                if file.publish(name) is not first:
                    raise OSError(errno.EINVAL, "a rename there replaces what has that name, or does nothing")
    finally:
        for leftover in (part, name):
            with suppress(OSError):
                os.unlink(leftover, dir_fd=folder)
