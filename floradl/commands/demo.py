"""`floradl demo`: simulator, watch folder and a dozen runs in a new folder, with nothing set up before."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
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
from floradl.models import RunRequest
from floradl.sources.job_file import render_orders
from floradl.sources.submit import drop_job

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
    from floradl.simulator.demo_runs import demo_runs  # noqa: PLC0415 - needs the extra

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
