"""`floradl demo` and `floradl simulate`: a simulated FLORA to try floradl against.

`demo` starts the simulator and a daemon in a new folder, and has a dozen runs downloaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shlex
import shutil
import signal
import sys
import tempfile
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import click

from floradl.commands.exits import Exit, needing_simulator
from floradl.commands.streams import tell
from floradl.config.load import Options, load_config
from floradl.config.settings import Config
from floradl.errors import ConfigError
from floradl.fs.permissions import exposure
from floradl.log import configure
from floradl.sources.job_file import drop_job

if TYPE_CHECKING:
    from floradl.simulator import Simulator

_HOST = "127.0.0.1"
_TRUSTED = "FLORADL_NETWORK__TRUSTED_PRIVATE_HOSTS"
_FIRST_NAME = "floradl-demo"
DEMO = """
runs:
  - {run: run_demo01, technique: tagline, duration: 1s}
  - {run: run_demo02, technique: product-shot, duration: 1.5s, outputs: [{size: 180kB, rate: 300kB}]}
  - run: run_demo03
    technique: art-directors-critique
    duration: 2s
    outputs: [{size: 900kB, rate: 1MB}, {output_id: critique, type: text}]
  - {run: run_demo04, technique: brand-sheet, duration: 2.5s, outputs: [{type: documentUrl, size: 60kB}]}
  - {run: run_demo05, technique: sound-bed, duration: 3s, outputs: [{type: audioUrl, size: 2MB, rate: 1MB}]}
  - run: run_demo06
    technique: camera-move
    duration: 3.5s
    outputs: [{type: videoUrl, size: 6MB, rate: 2MB}]
  - run: run_demo07
    technique: product-shot
    duration: 4s
    outputs:
      - {output_id: output_1, size: 400kB, rate: 700kB}
      - {output_id: output_2, size: 800kB, rate: 700kB}
      - {output_id: output_3, size: 1200kB, rate: 700kB}
      - {output_id: output_4, size: 1600kB, rate: 700kB}
  - run: run_demo08
    technique: camera-move
    duration: 5s
    outputs: [{type: videoUrl, size: 4MB, rate: 1.5MB}]
  - run: run_demo09
    technique: campaign
    duration: 6s
    outputs:
      - {output_id: hero, size: 1400kB, rate: 1MB}
      - {output_id: film, type: videoUrl, size: 5MB, rate: 2MB}
      - {output_id: jingle, type: audioUrl, size: 600kB, rate: 400kB}
      - {output_id: brief, type: documentUrl, size: 90kB}
      - {output_id: claim, type: text}
  - run: run_demo10
    technique: sound-bed
    duration: 7s
    outputs: [{type: audioUrl, size: 800kB, rate: 800kB}]
  - run: run_demo11
    technique: product-shot
    duration: 4.5s
    fail: {code: safety_blocked, message: The prompt was refused by the model's safety system.}
  - {run: run_demo12, kind: generation, duration: 8s, outputs: [{size: 250kB, rate: 250kB}]}
"""
"""A dozen runs as a scenario: they end after 1 to 8 seconds."""


def simulate(*, port: int, speed: float, rate_limit: float | None, scenario: Path | None) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code 0.

    The first line on stdout holds the base URL and the key, as assignments; how to try it follows on stderr.
    `port` 0 takes a free one, `speed` divides durations, `rate_limit` is in requests a second. Raises
    `ConfigError` without aiohttp, for a port that is taken, and for a scenario that cannot be read.
    """
    with needing_simulator("the simulator"):
        from floradl.simulator import Simulator, serve  # noqa: PLC0415  # an extra, and heavy
        from floradl.simulator.scenario import load_scenario  # noqa: PLC0415  # as above
    simulator = Simulator(speed=speed)
    if scenario is not None:
        load_scenario(scenario).stage(simulator)
    if rate_limit is not None:
        simulator.rate_limit = rate_limit
    try:
        asyncio.run(_until_stopped(simulator, serve(simulator, _HOST, port)))
    except OSError as error:
        if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
            raise
        raise ConfigError(
            f"port {port} of {_HOST} is unavailable ({os.strerror(error.errno)}): name another one with "
            "--port, or leave it out to get a free one"
        ) from error
    return 0


async def _until_stopped(simulator: Simulator, serving: AbstractAsyncContextManager[str]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with serving as base_url:
        click.echo(f"FLORA_BASE_URL={base_url} FLORA_API_KEY={simulator.key} {_TRUSTED}={_HOST}")
        with contextlib.suppress(BrokenPipeError):
            tell(_introduction(simulator, base_url))
        await stop.wait()


def _introduction(simulator: Simulator, base_url: str) -> str:
    techniques = "\n".join(f"  {each.slug:<24}{each.description}" for each in simulator.techniques)
    return f"""
A simulated FLORA; Ctrl-C ends it. Start a run, and see what comes back:
  curl -s {base_url}/techniques/campaign/runs -H 'Authorization: Bearer {simulator.key}' \\
    -H 'Content-Type: application/json' -d '{{"mode": "async", "inputs": []}}'
floradl downloads it with the variables of the first line; the last one lets it speak plain http here:
  export FLORA_BASE_URL={base_url} FLORA_API_KEY={simulator.key} {_TRUSTED}={_HOST}
  floradl get campaign/RUN_ID
A run that is started with "callback_url" gets a webhook when it ends, signed with
  FLORA_WEBHOOK_SECRET={simulator.webhook_secrets[0]}
Techniques:
{techniques}"""


def demo(home: Path | None) -> Exit:
    """Show the whole job in an empty `home`, or in a new folder. Raises `ConfigError`."""
    with needing_simulator("the demo"):
        import floradl.simulator  # noqa: F401, PLC0415 - before a folder is made in vain
    folder = _new_folder(home)
    configure("critical", "auto")
    with tempfile.TemporaryDirectory(prefix=_FIRST_NAME) as private:
        # A daemon would not keep its state where others could replace it; a demo must not fail for that.
        state_dir = folder / "state" if exposure(folder) is None else Path(private)
        code = anyio.run(_demo, folder, state_dir)
    if code is Exit.OK:
        _say_where(folder)
    return code


async def _demo(folder: Path, state_dir: Path) -> Exit:
    from floradl.commands.get import once  # noqa: PLC0415 - heavy, and only needed from here on
    from floradl.simulator import Simulator, serve  # noqa: PLC0415 - needs the extra
    from floradl.simulator.scenario import parse_scenario  # noqa: PLC0415 - as above

    simulator = Simulator()
    async with serve(simulator) as base_url:
        references = parse_scenario(DEMO).stage(simulator)
        config = _config(folder, state_dir, base_url)
        tell(f"A simulated FLORA serves {len(references)} runs; they are downloaded to {_shown(folder)}")
        drop_job(config.queue.watch_dir, "".join(f"{reference}\n" for reference in references))
        code = await once(config, {"FLORA_API_KEY": simulator.key})
    # One run fails on purpose: a demo that shows it went well.
    return Exit.OK if code is Exit.FAILED else code


def _config(folder: Path, state_dir: Path, base_url: str) -> Config:
    host = urlsplit(base_url).hostname or ""
    return load_config(
        Options(home=folder),
        {
            "HOME": str(folder),
            "FLORADL_STATE_DIR": str(state_dir),
            "FLORADL_API__BASE_URL": base_url,
            "FLORADL_NETWORK__TRUSTED_PRIVATE_HOSTS": host,
            "FLORADL_DOWNLOAD__MIN_FREE_SPACE": "0",
            "FLORADL_POLL__INTERVAL": "500ms",
        },
        system_file=folder / "no-such-file",
    )


def _new_folder(home: Path | None) -> Path:
    if home is not None:
        if home.exists() and any(home.iterdir()):
            raise ConfigError(f"{home} is not empty, and the demo wants a new folder: name another one")
        home.mkdir(parents=True, exist_ok=True)
        return home.resolve()
    for name in (_FIRST_NAME, *(f"{_FIRST_NAME}-{number}" for number in range(2, 1000))):
        folder = Path.cwd() / name
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError:
            break
        return folder
    return Path(tempfile.mkdtemp(prefix=f"{_FIRST_NAME}-"))


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _say_where(folder: Path) -> None:
    # From a checkout the program is in .venv, where no shell looks for it.
    program = "floradl" if shutil.which("floradl") else shlex.quote(str(_shown(Path(sys.argv[0]).absolute())))
    show = f"{program} --home {shlex.quote(str(_shown(folder)))} gallery --open"
    click.echo(
        f"\nLook around: {_shown(folder / 'library')}\n"
        f"  images, videos, audio, documents, text   what the runs made, by kind\n"
        f"  runs                                     a JSON sidecar for each run\n"
        f"One run failed at FLORA on purpose: its sidecar says why. Next: Install, in README.md\n"
        f"See it all in a browser: {show}",
        file=sys.stderr,
    )
