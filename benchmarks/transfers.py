"""Rows a, b, b2, c, c2 and h: finished runs, beside aria2 with the ready list of URLs, and curl."""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.disk import new_file_systems
from benchmarks.figures import Figure, Scale, ratio
from benchmarks.flora import Flora, simulated
from benchmarks.home import Home, clean_environ
from benchmarks.identity import Identity, make_identity
from benchmarks.media import Batch, batch, read_files, together, warm_disk, write_files
from benchmarks.plan import BenchmarkError, Plan, tell
from benchmarks.processes import Cost, measured
from benchmarks.script import PlayedOutput, PlayedRun, Script
from benchmarks.server import serving

_CONNECTIONS = 16
_MB = 1_000_000
_MANY = 100  # files
ASIDE = "aside"
"""The folder of what racers left, which stays from one row to the next."""

_PASSED_OVER = 300.0  # seconds for which ext4 passes over the inode of a file that was removed
_ROOM = 4  # times the size of all files: for what is warmed up, and for the next racer
_MEMORY = Scale(" MB", _MB)
_SECONDS = Scale()
_LATE = 0.03  # seconds before each answer of rows c and c2


class Track(Struct, frozen=True):
    """Where racers run: what there is to fetch, where it is, and FLORA, which knows the runs.

    `renew` makes a new file system for each of them to write to, and returns where; None where they share
    one.
    """

    plan: Plan
    batch: Batch
    files: Path
    media_url: str
    identity: Identity
    flora: Flora
    connections: int = _CONNECTIONS
    renew: Callable[[], Path] | None = None

    @property
    def urls(self) -> list[str]:
        """The URL of each file."""
        return [f"{self.media_url}/{file.name}" for file in self.batch.files]

    @property
    def settings(self) -> dict[str, str]:
        """The environment variables that floradl is run with."""
        return {
            "SSL_CERT_FILE": str(self.identity.authority),
            "FLORADL_DOWNLOAD__CONCURRENCY": str(self.connections),
        }

    def floradl(self) -> Cost:
        """Have floradl do its whole job: hashing, fsync, journal and sidecars."""
        home = Home(self._start() / "floradl", self.flora, self.settings)
        home.drop(run_id(number) for number in range(len(self.batch.runs)))
        try:
            cost = home.once()
            home.check_files(len(self.batch.files), self.batch.size)
        finally:
            self._clear(home.path)
        return cost

    def aria2(self, at_once: int) -> Cost:
        """Have aria2 fetch the ready list, and put it to disk: the same durability."""
        return self.peer("aria2", f"{self.aria2_line(at_once)} && sync -f .")

    def aria2_line(self, at_once: int) -> str:
        """Return the command by which aria2 fetches the ready list."""
        aria2 = [self.plan.tools.path("aria2c"), "--no-conf", f"--input-file={self._list()}", "--dir=."]
        aria2 += [f"--max-concurrent-downloads={at_once}", "--max-connection-per-server=1", "--split=1"]
        aria2 += [f"--ca-certificate={self.identity.authority}", "--file-allocation=none"]
        aria2 += ["--auto-save-interval=0", "--quiet", "--summary-interval=0", "--download-result=hide"]
        return shlex.join(aria2)

    def floor(self, at_once: int) -> Cost:
        """Have the least program fetch the ready list that keeps floradl's promises: see `floor.py`."""
        program = [sys.executable, "-P", str(Path(__file__).with_name("floor.py"))]
        return self.peer(
            "floor", shlex.join([*program, self._list(), str(self.identity.authority), str(at_once)])
        )

    def curl(self) -> Cost:
        """Have curl fetch the files over one connection, and openssl hash them."""
        curl = [self.plan.tools.path("curl"), "--silent", "--show-error", "--fail", "--http1.1"]
        curl += ["--cacert", str(self.identity.authority), "--remote-name-all", *self.urls]
        digest = [self.plan.tools.path("openssl"), "dgst", "-sha256"]
        return self.peer("curl", f"{shlex.join(curl)} && {shlex.join(digest)} *")

    def peer(self, name: str, script: str, settings: Mapping[str, str] | None = None) -> Cost:
        """Have another program fetch all files: `script` begins in a folder of its own, which is empty."""
        folder = self._start() / name
        folder.mkdir()
        command = ["/bin/sh", "-c", f"cd {shlex.quote(str(folder))} && {script}"]
        try:
            cost = measured(command, {**clean_environ(), **(settings or {})}, self.plan.work / f"{name}.log")
            sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
            if (len(sizes), sum(sizes)) != (len(self.batch.files), self.batch.size):
                raise BenchmarkError(f"{name} left {len(sizes)} files with {sum(sizes)} bytes")
        finally:
            self._clear(folder)
        return cost

    def _list(self) -> str:
        path = self.plan.work / "urls.txt"
        path.write_text("".join(f"{url}\n" for url in self.urls))
        return str(path)

    def _start(self) -> Path:
        """Make all racers' beginnings alike; return where the next one writes."""
        read_files(self.files, self.batch.files)
        folder = self.plan.work if self.renew is None else self.renew()
        warm_disk(folder, self.batch.size)
        return folder

    def _clear(self, folder: Path) -> None:
        """Take away what a racer wrote; a file system goes with the next one."""
        if self.renew is None:
            _take_away(self.plan, self.batch, folder)


@contextmanager
def track(
    plan: Plan,
    what: Batch,
    *,
    delay: float = 0.0,
    alike: bool = False,
    connections: int = _CONNECTIONS,
    locations: str = "",
) -> Iterator[Track]:
    """Set up server, files and FLORA for `what`.

    See `write_files` for `alike`, and `serving` for `delay` and `locations`.
    """
    if _are_many(what):
        make_room(plan, what)
        plan.need_space(what.size * _ROOM)
    else:  # to whom it does not matter what was removed
        shutil.rmtree(plan.work / ASIDE, ignore_errors=True)
        plan.need_space(what.size * 2)
    folder = plan.work / "served"
    try:
        tell(f"making {len(what.files)} files with {what.size // _MB} MB")
        write_files(folder, what.files, alike=alike)
        identity = make_identity(plan.tools.path("openssl"), plan.work / "identity")
        with (
            serving(plan, folder, identity, delay, locations) as url,
            simulated(Script(_played(what, url)), plan.work / "flora") as flora,
        ):
            yield Track(plan, what, folder, url, identity, flora, connections)
    finally:
        _take_away(plan, what, folder)


def _take_away(plan: Plan, what: Batch, folder: Path) -> None:
    """Remove the files of `what`, or put many of them aside until a row with few begins.

    For five minutes ext4 passes over the inode of a file that was removed, one by one, each time that it
    makes a new one: whoever comes next would pay for it.
    """
    if _are_many(what):
        aside = plan.work / ASIDE
        aside.mkdir(exist_ok=True)
        folder.rename(tempfile.mkdtemp(dir=aside))
        make_room(plan, what)
    else:
        shutil.rmtree(folder)
    os.sync()


def make_room(plan: Plan, what: Batch) -> None:
    """Remove what was put aside where the disk gets full, and wait until nobody pays for that any more."""
    aside = plan.work / ASIDE
    if aside.exists() and not plan.has_space(what.size * _ROOM):
        tell(f"removing what racers left, then waiting for {_PASSED_OVER:.0f} s: the disk gets full")
        shutil.rmtree(aside)
        os.sync()
        time.sleep(_PASSED_OVER)


def _are_many(what: Batch) -> bool:
    return len(what.files) >= _MANY


def large_files(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Row a: a few large files; `aria2` for the clock, `curl` and `openssl` for the processor."""
    what = batch([4], plan.size(1 << 30, 8 << 20), "mp4")
    against_aria2, against_curl = [], []
    with track(plan, what) as racers:
        for nth in range(plan.pairs):
            ours, aria2, curl = racers.floradl(), racers.aria2(len(what.files)), racers.curl()
            tell_pair("a", nth, ours, aria2)
            against_aria2.append((ours, aria2))
            against_curl.append((ours, curl))
    return [
        _wall("a", "wall, to aria2c -j4 + sync -f", against_aria2, 0.75),
        _cpu("a", "CPU, to curl + openssl dgst", against_curl, 1.2),
        _cpu("a", "CPU, to aria2c, which does not hash", against_aria2, 1.2),
        _memory("a", against_aria2),
    ]


def mixed_files(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Row b: pictures and clips as a day of work brings them."""
    return _race("b", plan, day_of_work(plan), _Terms(0.8, 1.5))


def few_mixed_files(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Row b2: the same, less of it, so that starts and ends count for more."""
    return _race("b2", plan, _pictures_and_clips(plan, plan.size(120, 12), clip_every=12), _Terms(1.0, 1.7))


def day_of_work(plan: Plan) -> Batch:
    """Plan the files of row b."""
    return _pictures_and_clips(plan, plan.size(400, 20), clip_every=10)


def _pictures_and_clips(plan: Plan, runs: int, clip_every: int) -> Batch:
    images = batch([3] * runs, plan.size(_MB, 100_000), "png", "image")
    clips = [int(run % clip_every == 0) for run in range(runs)]
    return together(images, batch(clips, plan.size(30 * _MB, 3 * _MB), "mp4"))


def distant_files(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Row c: many small files from a server that takes its time."""
    return _race("c", plan, _small_files(plan), _Terms(1.0, 2.5, _LATE))


def distant_files_at_once(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Row c2: the same over many more connections, and what plain Python takes at the least."""
    return _race("c2", plan, _small_files(plan), _Terms(1.0, None, _LATE, connections=64, floor=True))


def _small_files(plan: Plan) -> Batch:
    return batch([4] * plan.size(500, 25), plan.size(200_000, 20_000))


def many_large_files(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Row h: the memory that many large files at once take."""
    what = batch([1] * 16, plan.size(1 << 30, 8 << 20), "mp4")
    with track(plan, what, alike=True) as racers:
        cost = racers.floradl()
    tell(f"h: {cost.wall:.1f} s, {cost.memory / _MB:.0f} MB")
    return [
        Figure(row="h", what="peak RSS", values=(cost.memory / _MB,), bar=120.0, unit=" MB"),
        Figure(row="h", what="rate", values=(what.size / _MB / cost.wall,), unit=" MB/s"),
    ]


class _Terms(Struct, frozen=True):
    """What floradl may take at most, to the peer, and how they race.

    `delay` is in seconds before each answer; with `floor` the least program races, too.
    """

    wall: float
    cpu: float | None = None
    delay: float = 0.0
    connections: int = _CONNECTIONS
    floor: bool = False


def _race(row: str, plan: Plan, what: Batch, terms: _Terms) -> list[Figure]:
    pairs, floors = [], []
    connections = terms.connections
    with (
        track(plan, what, delay=terms.delay, connections=connections) as shared,
        # Of many small files new ones cost more than their bytes.
        new_file_systems(plan.work, what.size * 2) if terms.delay else nullcontext() as renew,
    ):
        racers = msgspec.structs.replace(shared, renew=renew)
        for nth in range(plan.pairs):
            pairs.append((racers.floradl(), racers.aria2(connections)))
            tell_pair(row, nth, *pairs[-1])
            if terms.floor:
                floors.append((racers.floor(connections), pairs[-1][1]))
                tell_pair(f"{row}, floor", nth, *floors[-1])
    figures = [
        _wall(row, f"wall, to aria2c -j{connections} + sync -f", pairs, terms.wall),
        _cpu(row, "CPU, to aria2c", pairs, terms.cpu),
        _memory(row, pairs),
    ]
    if floors:
        figures += [
            _wall(row, "wall of the floor, to aria2c", floors),
            _cpu(row, "CPU of the floor, to aria2c", floors),
        ]
    return figures


def _wall(row: str, what: str, pairs: list[tuple[Cost, Cost]], bar: float | None = None) -> Figure:
    return ratio(row, what, [(ours.wall, peer.wall) for ours, peer in pairs], bar, _SECONDS)


def _cpu(row: str, what: str, pairs: list[tuple[Cost, Cost]], bar: float | None = None) -> Figure:
    return ratio(row, what, [(ours.cpu, peer.cpu) for ours, peer in pairs], bar, _SECONDS)


def _memory(row: str, pairs: list[tuple[Cost, Cost]]) -> Figure:
    return Figure(
        row=row,
        what="peak RSS",
        ours=_MEMORY.show([ours.memory for ours, _ in pairs]),
        peer=_MEMORY.show([peer.memory for _, peer in pairs]),
        values=(statistics.median(ours.memory / _MB for ours, _ in pairs),),
        unit=" MB",
    )


def tell_pair(row: str, nth: int, ours: Cost, peer: Cost) -> None:
    """Say on stderr how a pair came out."""
    tell(
        f"{row}, pair {nth + 1}: {ours.wall:.2f} s to {peer.wall:.2f} s ({ours.wall / peer.wall:.2f}), "
        f"CPU {ours.cpu:.2f} s to {peer.cpu:.2f} s"
    )


def run_id(number: int) -> str:
    """Return the id of a batch's run, counted from 0."""
    return f"run_{number:06}"


def _played(what: Batch, url: str) -> tuple[PlayedRun, ...]:
    """Return runs that were finished a moment before, whose outputs are the server's files."""
    return tuple(
        PlayedRun(
            run_id(number),
            duration=1.0,
            outputs=tuple(
                PlayedOutput(f"output_{nth}", file.type, f"{url}/{file.name}")
                for nth, file in enumerate(files, 1)
            ),
            age=60.0,
        )
        for number, files in enumerate(what.runs)
    )
