"""`floradl gallery`: a page over the whole library, on this machine or, with a token, for others."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import to_thread
from msgspec import Struct

from floradl.commands.daemon_state import read_daemon
from floradl.commands.exits import Exit
from floradl.commands.library_index import SavedSidecars, index_place
from floradl.commands.streams import tell
from floradl.config.credentials import read_web_token
from floradl.config.settings import Config
from floradl.errors import ConfigError, FloradlError, PauseReason, innermost
from floradl.index.tables import IndexDamagedError
from floradl.library_builder import build_library
from floradl.log import get_logger
from floradl.models import Action, QueuedRun, Reference, RunRequest, RunState
from floradl.net.addresses import Endpoint
from floradl.queue import folder as state_folder
from floradl.queue.heartbeat import LivePause, LiveRun
from floradl.queue.reader import read_queue
from floradl.redaction import redact

if TYPE_CHECKING:
    from floradl.gallery.app import Act

USUAL: Final = Endpoint("127.0.0.1", 8788)
_EXTRA: Final = frozenset({"starlette", "uvicorn", "PIL"})
_INDEXES: Final = 3  # that may turn out to be damaged
_MOST_RUNNING: Final = 60
_MOST_FAILED: Final = 20
_REMEDIES: Final = {
    PauseReason.KEY_REFUSED: "Give floradl a valid API key; 'floradl check' says which one it uses.",
    PauseReason.CREDITS: "Buy credits for the workspace at FLORA.",
    PauseReason.DISK_FULL: "Make room on the disk or in the bucket, or name another with output.dir.",
    PauseReason.LIBRARY_MISSING: "Mount the library's disk, or have its bucket answer again.",
    PauseReason.LIBRARY_OTHER: "Move the files (floradl move-library), or name the old place in output.dir.",
    PauseReason.LIBRARY_READ_ONLY: "Let floradl's user or credentials write the library, or mount it so.",
    PauseReason.QUEUE_UNAVAILABLE: "See that the queue's database runs and can be reached.",
}
_log = get_logger()


class GalleryMode(Struct, frozen=True):
    """How the gallery runs: as a daemon's child, until its stdin ends; shown in the desktop's browser."""

    is_child: bool = False
    is_shown: bool = False


async def gallery(config: Config, environ: Mapping[str, str], endpoint: Endpoint, mode: GalleryMode) -> Exit:
    """Serve the gallery at `endpoint` until SIGINT or SIGTERM, or as `mode` says.

    Raises `ConfigError` where the extra is missing, or that address cannot be served.
    """
    with needing_web("the gallery"):
        import PIL  # noqa: F401, PLC0415 - an extra

        from floradl.gallery.server import GalleryOptions, bound, serve  # noqa: PLC0415 - as above
    token = read_web_token(config)
    try:
        listener = bound(endpoint, token)
    except OSError as error:
        raise ConfigError(_unserved(endpoint, error)) from error
    saved = SavedSidecars(config.state_dir, time.time())
    options = GalleryOptions(
        endpoint,
        index_place(config, environ),
        token,
        environ,
        Status(config.state_dir),
        None if token is None else _acting(config),
        saved,
        partial(_transfers, config.state_dir),
        config.web.thumbnail_space,
    )
    with listener, closing(saved):
        address = f"http://{endpoint}/"
        if mode.is_child:
            _log.info("gallery_listening", address=str(endpoint))
        else:
            more = "" if token is None else "; it wants the token of web.token_file once, as /?token=TOKEN"
            tell(f"The gallery of {config.output.dir}: {address}  (Ctrl-C ends it{more})")
        async with anyio.create_task_group() as group:
            group.start_soon(_until_told, group.cancel_scope, mode.is_child)
            if mode.is_shown:
                group.start_soon(partial(to_thread.run_sync, abandon_on_cancel=True), _show, address)
            for _ in range(_INDEXES):
                try:
                    await serve(build_library(config), options, listener.dup())
                except* IndexDamagedError as group_of_one:
                    _log.warning("index_damaged", message=str(innermost(group_of_one)))
            raise ConfigError(f"the index in {options.place} was damaged {_INDEXES} times: check its disk")
    return Exit.OK


def _show(address: str) -> None:
    import webbrowser  # noqa: PLC0415 - hardly ever needed

    if not webbrowser.open(address):
        tell(f"no browser was found: open {address}")


@contextmanager
def needing_web(what: str) -> Iterator[None]:
    """Import the gallery's libraries inside; `ConfigError` says how `what` gets those that are missing."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise ConfigError(
            f"{what} needs {error.name}, which is not installed: add the extra `web`, see docs/gallery.md"
        ) from error


def _unserved(endpoint: Endpoint, error: OSError) -> str:
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    if error.errno == errno.EADDRINUSE:
        return (
            f"{endpoint} is taken, perhaps by a gallery that runs: open it, or name another one with --listen"
        )
    return f"{endpoint} cannot be listened at ({reason}): name another one with --listen"


async def _until_told(scope: anyio.CancelScope, is_child: bool) -> None:  # noqa: FBT001 - a task's argument
    async with anyio.create_task_group() as group:

        async def heard() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                await anext(signals)
            scope.cancel()

        group.start_soon(heard)
        if is_child:
            await to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)
            scope.cancel()


def _acting(config: Config) -> Act:
    def act(action: str, run_id: str) -> None:
        from floradl.sources.job_file import drop_job, render_orders  # noqa: PLC0415 - hardly ever needed

        if action == "prune":
            from floradl.commands.prune import prune_run  # noqa: PLC0415 - as above

            prune_run(config, run_id)
            return
        try:
            request = RunRequest(Reference.of(run_id), action=Action(action))
            drop_job(config.queue.watch_dir, render_orders([request]))
        except (ValueError, OSError) as error:
            raise FloradlError(f"the job could not be put into {config.queue.watch_dir}: {error}") from error

    return act


class Status:
    """Returns the state as `/api/status` answers it. Blocking; reads the queue only after a change."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._read: tuple[object, _Queue] | None = None

    def __call__(self) -> dict[str, Any]:
        """Read the state. Raises `ConfigError` as `read_daemon`."""
        daemon = read_daemon(self._state_dir)
        snapshot = daemon.snapshot if daemon.alive else None
        live = {run.run_id: run for run in snapshot.runs} if snapshot is not None else {}
        queue = self._queue()
        paused = snapshot.paused if snapshot is not None else None
        return {
            "daemon": daemon.alive,
            "paused": None if paused is None else _paused(paused),
            "counts": {state.value: queue.counts.get(state, 0) for state in RunState},
            "running": [_running(run, live.get(run.run_id)) for run in queue.running],
            "failed": [_failed(run) for run in queue.failed],
        }

    def _queue(self) -> _Queue:
        stamp = tuple(_stamp(self._state_dir / f"{state_folder.FILE_NAME}{end}") for end in ("", "-wal"))
        if self._read is None or self._read[0] != stamp:
            self._read = stamp, _read_queue(self._state_dir)
        return self._read[1]


def _transfers(state_dir: Path) -> dict[tuple[str, str], int]:
    """Return the bytes received of each output under way, from the downloading process's last snapshot."""
    with suppress(FloradlError):
        if (snapshot := read_daemon(state_dir).snapshot) is not None:
            return {
                (run.run_id, output.output_id): output.bytes
                for run in snapshot.runs
                for output in run.outputs
            }
    return {}


class _Queue(Struct, frozen=True):
    """The part of the queue that the gallery shows."""

    counts: Mapping[RunState, int] = {}
    running: tuple[QueuedRun, ...] = ()
    failed: tuple[QueuedRun, ...] = ()


def _read_queue(state_dir: Path) -> _Queue:
    with read_queue(state_dir) as queue:
        if queue is None:
            return _Queue()
        running = [run for run in queue.unfinished(_MOST_RUNNING) if run.state is not RunState.WAITING]
        failed = queue.ended((RunState.FAILED, RunState.PARTIAL), _MOST_FAILED)
        return _Queue(queue.counts(), tuple(running), tuple(failed))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _paused(pause: LivePause) -> dict[str, Any]:
    known = {reason.value: remedy for reason, remedy in _REMEDIES.items()}
    return {
        "reason": pause.reason,
        "message": redact(pause.message),
        "remedy": known.get(pause.reason),
    }


def _failed(run: QueuedRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "technique": run.technique,
        "label": run.label,
        "error": {"code": run.error.code.value, "message": redact(run.error.message)} if run.error else None,
    }


def _running(run: QueuedRun, live: LiveRun | None) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "technique": run.technique,
        "label": run.label,
        "state": run.state.value,
        "progress": live.progress if live is not None else run.progress,
        "outputs": [
            {"output_id": output.output_id, "bytes": output.bytes, "total": output.total}
            for output in (live.outputs if live is not None else ())
        ],
    }
