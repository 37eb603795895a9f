"""Row k: the files of row b by the programs that people use for such a list, each as its users run it.

They get the URLs that FLORA would have named. Those of Python have a virtual environment of the benchmarks'.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from benchmarks.figures import Figure, Scale, ratio
from benchmarks.media import Batch
from benchmarks.plan import Plan, tell
from benchmarks.processes import Cost
from benchmarks.tools import VENV
from benchmarks.transfers import Track, day_of_work, tell_pair, track

_REPETITIONS = 3  # at most: some take minutes
_BAR = 0.5
_REPOSITORY, _COMMIT = "benchmark/files", "0" * 40


class _Program(Struct, frozen=True):
    """A program: its tool, its command for a list of URLs, and whether it is held to the bar."""

    tool: str
    command: Callable[[Track, Path], str]
    judged: bool = False
    settings: Callable[[Track], Mapping[str, str]] = lambda _: {}


def _trust(racers: Track) -> dict[str, str]:
    """Have a program of Python trust the server."""
    authority = str(racers.identity.authority)
    return {"SSL_CERT_FILE": authority, "REQUESTS_CA_BUNDLE": authority}


def _trust_hub(racers: Track) -> dict[str, str]:
    home = str(racers.plan.work / "hub-home")
    return {**_trust(racers), "HF_ENDPOINT": racers.media_url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": home}


def _gallery_dl(racers: Track, urls: Path) -> str:
    return _line(racers, "gallery-dl", "--config-ignore", "--quiet", "-D", ".", "--input-file", str(urls))


def _yt_dlp(racers: Track, urls: Path) -> str:
    options = ["--ignore-config", "--quiet", "--no-warnings", "--compat-options", "no-certifi"]
    return _line(racers, "yt-dlp", *options, "-o", "%(id)s.%(ext)s", "--batch-file", str(urls))


def _hub(_racers: Track, _urls: Path) -> str:
    script = f"from huggingface_hub import snapshot_download as get; get({_REPOSITORY!r}, local_dir='.')"
    return shlex.join([str(VENV / "bin/python"), "-c", script])


def _rclone(racers: Track, urls: Path) -> str:
    authority = str(racers.identity.authority)
    one = _line(
        racers, "rclone", "copyurl", "--config=", "--auto-filename", "--ca-cert", authority, "{}", "."
    )
    return f"xargs -a {shlex.quote(str(urls))} -P 16 -I {{}} {one}"


def _wget2(racers: Track, urls: Path) -> str:
    options = ["--no-config", "--quiet", "--max-threads=16", f"--ca-certificate={racers.identity.authority}"]
    return _line(racers, "wget2", *options, f"--input-file={urls}")


def _least(racers: Track, _urls: Path) -> str:
    return f"{racers.aria2_line(16)} && {_line(racers, 'openssl', 'dgst', '-sha256')} * >/dev/null"


def _line(racers: Track, tool: str, *arguments: str) -> str:
    return shlex.join([racers.plan.tools.path(tool), *arguments])


_LEAST = "aria2c -j16 and openssl dgst"
_PROGRAMS = {
    "gallery-dl": _Program("gallery-dl", _gallery_dl, judged=True, settings=_trust),
    "yt-dlp": _Program("yt-dlp", _yt_dlp, judged=True, settings=_trust),
    "huggingface_hub": _Program("huggingface_hub", _hub, judged=True, settings=_trust_hub),
    "rclone copyurl, 16 at once": _Program("rclone", _rclone),
    "wget2 --max-threads=16": _Program("wget2", _wget2),
    _LEAST: _Program("aria2c", _least),
}


def programs(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Measure those that are here in turn with floradl; the others are named."""
    for missing in plan.tools.missing(program.tool for program in _PROGRAMS.values()):
        tell(f"k: {missing}")
    here = {name: each for name, each in _PROGRAMS.items() if each.tool in plan.tools.found}
    seen: dict[str, list[tuple[Cost, Cost]]] = {name: [] for name in here}
    what = day_of_work(plan)
    with track(plan, what, locations=_hub_locations(plan.work / "hub", what)) as racers:
        urls = plan.work / "urls.txt"
        urls.write_text("".join(f"{url}\n" for url in racers.urls))
        for nth in range(min(plan.pairs, _REPETITIONS)):
            ours = racers.floradl()
            for name, program in here.items():
                script = f"{program.command(racers, urls)} && sync -f ."
                peer = racers.peer(program.tool, script, program.settings(racers))
                tell_pair(f"k, {name}", nth, ours, peer)
                seen[name].append((ours, peer))
    figures = [figure for name, program in here.items() for figure in _figures(name, program, seen[name])]
    return figures + [
        _least_of_all(name, seen[name], seen[_LEAST])
        for name, program in here.items()
        if program.judged and _LEAST in here
    ]


def _figures(name: str, program: _Program, pairs: Sequence[tuple[Cost, Cost]]) -> list[Figure]:
    bar = _BAR if program.judged else None
    walls, cpus = [(a.wall, b.wall) for a, b in pairs], [(a.cpu, b.cpu) for a, b in pairs]
    return [
        ratio("k", f"wall, to {name}", walls, bar, Scale()),
        ratio("k", f"CPU, to {name}", cpus, bar, Scale()),
    ]


def _least_of_all(
    name: str, pairs: Sequence[tuple[Cost, Cost]], least: Sequence[tuple[Cost, Cost]]
) -> Figure:
    """Return what fetching and hashing takes by themselves, in C: less cannot be expected."""
    cpus = [(one.cpu, other.cpu) for (_, one), (_, other) in zip(least, pairs, strict=True)]
    return ratio("k", f"CPU of {_LEAST}, to {name}", cpus, None, Scale())


def _hub_locations(folder: Path, what: Batch) -> str:
    """Return what has nginx serve the files as a repository of Hugging Face's hub, too; lists in `folder`."""
    folder.mkdir()
    named = [{"rfilename": file.name} for file in what.files]
    (folder / "revision").write_text(json.dumps({"id": _REPOSITORY, "sha": _COMMIT, "siblings": named}))
    listed = [
        {"type": "file", "path": file.name, "size": file.size, "oid": _COMMIT, "lastCommit": None}
        for file in what.files
    ]
    (folder / "tree").write_text(json.dumps(listed))
    return f"""
    location /api/models/{_REPOSITORY}/ {{
      default_type application/json;
      rewrite ^/api/models/{_REPOSITORY}/([a-z]+)/ /$1 break;
      root {folder};
    }}
    location /{_REPOSITORY}/resolve/ {{
      add_header X-Repo-Commit {_COMMIT};
      rewrite ^/{_REPOSITORY}/resolve/[^/]+/(.*)$ /$1 break;
    }}
"""
