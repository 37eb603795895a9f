"""The daemon's gallery: a process of its own, so that showing pictures never slows down a download.

It gets the daemon's settings, but no key and no secret, and it ends when the daemon ends, in whatever way.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from subprocess import PIPE
from typing import Final

import anyio
from anyio.abc import Process

from floradl.config.settings import Config
from floradl.log import get_logger
from floradl.net.addresses import Endpoint

MISSING: Final = (
    "web.listen is set, but the gallery is not installed: add the extra `web`, see docs/gallery.md"
)
_SECRETS: Final = ("FLORA_", "FLORADL_API", "FLORADL_WEBHOOK", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET")
_AGAIN: Final = 2.0  # seconds
_SLOWEST: Final = 60.0
_LIVED: Final = 60.0
_GRACE: Final = 2.0
_log = get_logger()


def installed() -> bool:
    """Whether the libraries of the gallery are there."""
    return all(find_spec(name) is not None for name in ("starlette", "uvicorn", "PIL"))


async def serve_gallery(config: Config, environ: Mapping[str, str]) -> None:
    """Keep the gallery's process running at `web.listen`, for ever; returns at once where none is set."""
    if (endpoint := config.web.listen) is None:
        return
    if not installed():
        _log.warning("gallery_missing", message=MISSING)
        return
    pause = _AGAIN
    while True:
        begun = anyio.current_time()
        code = await _run(config, environ, endpoint)
        pause = _AGAIN if anyio.current_time() - begun > _LIVED else min(2 * pause, _SLOWEST)
        _log.warning("gallery_ended", code=code, next_in=pause)
        await anyio.sleep(pause)


async def _run(config: Config, environ: Mapping[str, str], endpoint: Endpoint) -> int | str:
    try:
        process = await anyio.open_process(
            command(config, endpoint),
            # Until this end of its stdin is closed, by us or by the system.
            stdin=PIPE,
            stdout=None,
            stderr=None,
            env=without_secrets(environ),
            start_new_session=True,
        )
    except OSError as error:
        return str(error)
    try:
        return await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _end(process: Process) -> None:
    if process.stdin is not None:
        await process.stdin.aclose()
    with anyio.move_on_after(_GRACE):
        await process.wait()
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def command(config: Config, endpoint: Endpoint) -> list[str]:
    """Return the command line of the gallery of `config`."""
    # -P: what lies in the folder that the daemon was started in is no module of ours
    line = [sys.executable, "-P", "-m", "floradl", "gallery", "--until-eof", "--listen", str(endpoint)]
    named = [] if config.file is None else ["--config", str(config.file)]
    return [*line, *named, "--home", str(config.home)]


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without keys and secrets."""
    return {name: value for name, value in environ.items() if not name.startswith(_SECRETS)}
