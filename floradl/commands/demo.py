"""`floradl demo`: simulator, watch folder and a dozen runs in a new folder, with nothing set up before."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
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
from floradl.models import Reference, RunRequest
from floradl.simulator.runs import VERDICT, OutputSpec
from floradl.simulator.state import Simulator
from floradl.sources.job_file import drop_job, render_orders

if TYPE_CHECKING:
    from floradl.simulator import Simulator

_HOST = "127.0.0.1"


def simulate(*, port: int, speed: float, rate_limit: float | None, scenario: Path | None) -> int:
    """Serve until SIGINT or SIGTERM, and give the exit code 0.

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
        click.echo(f"FLORA_BASE_URL={base_url} FLORA_API_KEY={simulator.key}")
        with contextlib.suppress(BrokenPipeError):
            tell(_introduction(simulator, base_url))
        await stop.wait()


def _introduction(simulator: Simulator, base_url: str) -> str:
    techniques = "\n".join(
        f"  {technique.slug:<24}{technique.description}" for technique in simulator.techniques
    )
    return f"""
A simulated FLORA; Ctrl-C ends it. Start a run, and see what comes back:
  curl -s {base_url}/techniques/campaign/runs -H 'Authorization: Bearer {simulator.key}' \\
    -H 'Content-Type: application/json' -d '{{"mode": "async", "inputs": []}}'
floradl fetches it with the variables of the first line, and permission to speak plain http to this host:
  FLORADL_NETWORK__TRUSTED_PRIVATE_HOSTS={_HOST} floradl get campaign/RUN_ID
A run that is started with "callback_url" gets a webhook when it ends, signed with
  FLORA_WEBHOOK_SECRET={simulator.webhook_secrets[0]}
Techniques:
{techniques}"""


_KB, _MB = 1_000, 1_000_000

_RUNS: tuple[tuple[str, float, tuple[OutputSpec, ...]], ...] = (
    ("tagline", 1.0, (OutputSpec("output_1", "text", text="Grown, not made.\n"),)),
    ("product-shot", 1.5, (OutputSpec("output_1", "imageUrl", size=180 * _KB, rate=300 * _KB),)),
    (
        "art-directors-critique",
        2.0,
        (
            OutputSpec("output_1", "imageUrl", size=900 * _KB, rate=1 * _MB),
            OutputSpec("critique", "text", text=VERDICT),
        ),
    ),
    ("brand-sheet", 2.5, (OutputSpec("output_1", "documentUrl", size=60 * _KB),)),
    ("sound-bed", 3.0, (OutputSpec("output_1", "audioUrl", size=2 * _MB, rate=1 * _MB),)),
    ("camera-move", 3.5, (OutputSpec("output_1", "videoUrl", size=6 * _MB, rate=2 * _MB),)),
    (
        "product-shot",
        4.0,
        tuple(
            OutputSpec(f"output_{number}", "imageUrl", size=number * 400 * _KB, rate=700 * _KB)
            for number in range(1, 5)
        ),
    ),
    ("camera-move", 5.0, (OutputSpec("output_1", "videoUrl", size=4 * _MB, rate=1.5 * _MB),)),
    (
        "campaign",
        6.0,
        (
            OutputSpec("hero", "imageUrl", size=1_400 * _KB, rate=1 * _MB),
            OutputSpec("film", "videoUrl", size=5 * _MB, rate=2 * _MB),
            OutputSpec("jingle", "audioUrl", size=600 * _KB, rate=400 * _KB),
            OutputSpec("brief", "documentUrl", size=90 * _KB),
            OutputSpec("claim", "text", text="Grown, not made.\n"),
        ),
    ),
    ("sound-bed", 7.0, (OutputSpec("output_1", "audioUrl", size=800 * _KB, rate=800 * _KB),)),
)


def demo_runs(simulator: Simulator) -> list[Reference]:
    """Start a dozen runs, and give their references. They end after 1 to 8 seconds at speed 1."""
    references = [
        simulator.add_run(f"run_demo{number:02}", technique=technique, duration=duration, outputs=outputs)
        for number, (technique, duration, outputs) in enumerate(_RUNS, start=1)
    ]
    refused = ("safety_blocked", "The prompt was refused by the model's safety system.")
    still = (OutputSpec("output_1", "imageUrl", size=250 * _KB, rate=250 * _KB),)
    return [
        *references,
        simulator.add_run("run_demo11", technique="product-shot", duration=4.5, fail=refused),
        simulator.add_run("run_demo12", technique=None, duration=8.0, outputs=still),
    ]


_FIRST_NAME = "floradl-demo"


def demo(home: Path | None) -> Exit:
    """Show the whole job in `home`, or in a new folder beside the caller; ends by itself.

    Raises `ConfigError` where the simulator is not installed, or `home` holds something already.
    """
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

    simulator = Simulator()
    async with serve(simulator) as base_url:
        wanted = demo_runs(simulator)
        config = _config(folder, state_dir, base_url)
        tell(f"A simulated FLORA serves {len(wanted)} runs; they are downloaded to {_shown(folder)}")
        drop_job(config.queue.watch_dir, render_orders(RunRequest(reference) for reference in wanted))
        code = await once(config, {"FLORA_API_KEY": simulator.key})
    # One run fails on purpose: a demo that shows it went well.
    return Exit.OK if code is Exit.FAILED else code


def _config(folder: Path, state_dir: Path, base_url: str) -> Config:
    """Return a configuration of the demo's own: nothing of the user's is read."""
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
    """Return `path` as a person in this folder would write it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _say_where(folder: Path) -> None:
    click.echo(
        f"\nLook around: {_shown(folder / 'library')}\n"
        f"  images, videos, audio, documents, text   what the runs made, by kind\n"
        f"  runs                                     a JSON sidecar for each run\n"
        f"One run failed at FLORA on purpose: its sidecar says why. Next: floradl --help",
        file=sys.stderr,
    )
