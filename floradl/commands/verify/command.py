"""`floradl verify`: whether the library still holds what its sidecars say; `--repair` brings it back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from msgspec import Struct
from msgspec.structs import replace

from floradl.clock import unix_seconds
from floradl.commands.daemon_state import read_ended, read_under_way
from floradl.commands.exits import Exit
from floradl.commands.options import moment
from floradl.commands.streams import say, tell
from floradl.commands.submit import parse_all
from floradl.commands.verify.scan import (
    ACCEPTED,
    FileFilter,
    LibraryScan,
    Problem,
    ProgressLine,
    VerifyOutcome,
    unknown_files,
)
from floradl.config.settings import Config
from floradl.errors import ServicePausedError
from floradl.library.verify import FileVerdict
from floradl.library_builder import build_library
from floradl.models import RunState
from floradl.redaction import redact
from floradl.units import format_count, format_size

if TYPE_CHECKING:
    from floradl.index.sound_runs import SoundRun
    from floradl.library.base import StoredFile

SCHEMA_VERSION = 1


class Repair(Struct, frozen=True):
    """What is to be repaired: what is damaged or moved, and with `missing` what is gone.

    With `accepts_missing` nothing is: what is gone was deleted on purpose.
    """

    missing: bool = False
    accepts_missing: bool = False

    def covers(self, problem: Problem) -> bool:
        """Whether it is to be repaired."""
        if self.accepts_missing:
            return False
        return problem.verdict in {FileVerdict.DAMAGED} | ({FileVerdict.MISSING} if self.missing else set())


class Report(Struct):
    """All results; filled by its owner. `unknown` are files that no sidecar names.

    `skipped` counts the outputs that were left out on purpose, `removed` those whose files were removed,
    `passed_over` the forgotten runs, `companions` the XMP files that were missing and are written.
    """

    problems: list[Problem] = []
    unknown: list[str] = []
    outcomes: dict[int, VerifyOutcome] = {}
    runs: int = 0
    files: int = 0
    bytes: int = 0
    passed_over: int = 0
    skipped: int = 0
    companions: int = 0
    removed: int = 0

    @property
    def left(self) -> int:
        """How many problems were not repaired."""
        return len(self.problems) - sum(outcome.mended for outcome in self.outcomes.values())


def verify(
    config: Config,
    environ: Mapping[str, str],
    asked: FileFilter,
    repair: Repair | None,
    streams: tuple[TextIO, TextIO],
    *,
    as_json: bool,
) -> Exit:
    """Examine what is `asked` for, repair what `repair` covers, and report.

    Files that no sidecar names are listed, and nothing more: they may be anybody's. Results go to the first
    of `streams`, progress to the second. Returns `FOUND` where something is wrong that was not repaired,
    `GAVE_UP` where the library is not there. Raises `ConfigError`.
    """
    out, err = streams
    report = Report()
    try:
        meter = ProgressLine(err, shown=not config.log.quiet)
        for problem in _examine(config, environ, asked, meter, report):
            report.problems.append(problem)
            if not as_json:
                say(out, _line(problem))
                out.flush()
    except ServicePausedError as error:
        tell(f"floradl: {error}")
        return Exit.GAVE_UP
    code = Exit.OK
    if repair is not None:
        try:
            taken = _settle(config, repair, report)
        except ServicePausedError as error:
            tell(f"floradl: {error}")
            return Exit.GAVE_UP
        code = _repair(config, environ, repair, report, taken)
        report.companions = write_companions(config, asked)
    if as_json:
        out.write(json.dumps(_document(report), indent=2) + "\n")
    else:
        for path in report.unknown:
            say(out, f"{'unknown':<10}  {path}: no sidecar names it")
        for line in _outcome_lines(report):
            say(out, line)
        say(out, _summary(report, repair))
    if code is not Exit.OK:
        return code
    return Exit.FOUND if report.left else Exit.OK


def _repair(
    config: Config, environ: Mapping[str, str], repair: Repair, report: Report, taken: Container[int]
) -> Exit:
    """Download again what `repair` covers, and is not settled yet. The paths of the `taken` are others'."""
    covered = {
        # What stands at a path that is another's is not this one's damaged file, to be set aside.
        number: replace(each, verdict=FileVerdict.MISSING) if number in taken else each
        for number, each in enumerate(report.problems)
        if repair.covers(each) and number not in report.outcomes
    }
    if not covered:
        return Exit.OK
    import anyio  # noqa: PLC0415 - heavy, and mostly not needed

    from floradl.commands.alone import changing  # noqa: PLC0415 - mostly not needed
    from floradl.commands.verify.repair import repair_all  # noqa: PLC0415 - heavy, too

    with changing(config):
        code, outcomes = anyio.run(repair_all, config, environ, covered)
    report.outcomes |= outcomes
    return code


def _settle(config: Config, repair: Repair, report: Report) -> Container[int]:
    """Find what was moved, or accept what was deleted; return which problems' paths are other outputs'.

    Raises as `gone.record_moved`.
    """
    from floradl.commands.verify import gone  # noqa: PLC0415 - mostly not needed

    choose = gone.missing_files if repair.accepts_missing else gone.displaced_files
    if not (files := choose(report.problems)):
        return ()
    settled = (gone.accept_missing if repair.accepts_missing else gone.record_moved)(config, files)
    report.outcomes = settled.outcomes
    found = {outcome.path for outcome in report.outcomes.values() if outcome.mended}
    report.unknown = [path for path in report.unknown if path not in found]
    return settled.taken


def wanted(references: Iterable[str], since: str | None, now: float, *, quick: bool) -> FileFilter:
    """Read what the command line asks for, see `moment` for `since`. Raises `ConfigError`."""
    start = None if since is None else moment(since, now)
    return FileFilter(references=tuple(parse_all(references)), since=start, quick=quick)


def _examine(
    config: Config, environ: Mapping[str, str], asked: FileFilter, meter: ProgressLine, report: Report
) -> Iterator[Problem]:
    library = build_library(config)
    forgotten = frozenset(run.run_id for run in read_ended(config.state_dir, RunState.FORGOTTEN))
    examination = LibraryScan(library, asked, forgotten, meter, partial(_sound, config, environ))
    try:
        for problem in examination.problems():
            meter.clear()
            yield problem
        if asked.everything:
            under_way = partial(read_under_way, config.state_dir)
            listed = None if examination.listed is None else examination.listed()
            report.unknown = unknown_files(library, examination.known, under_way, listed)
    finally:
        meter.clear()
        report.runs, report.files = examination.runs, examination.files
        report.bytes, report.passed_over = meter.bytes, examination.passed_over
        report.skipped, report.removed = examination.skipped, examination.removed


def _sound(
    config: Config, environ: Mapping[str, str], listed: Mapping[str, StoredFile]
) -> Iterator[SoundRun]:
    """Return what the index of `find` and the gallery knows to be as it is `listed`, where there is one."""
    from floradl.commands.library_index import index_place  # noqa: PLC0415 - of a library in a store alone
    from floradl.index.sound_runs import sound_runs  # noqa: PLC0415 - as above
    from floradl.index.tables import FILE_NAME  # noqa: PLC0415 - as above

    place = index_place(config, environ) / FILE_NAME
    return sound_runs(place, str(config.output.dir), listed)


def write_companions(config: Config, asked: FileFilter) -> int:
    """Write XMP that is missing beside files of the runs `asked` for, where it is wanted; return how many."""
    if not config.output.xmp:
        return 0
    library = build_library(config)
    if asked.references:
        found = [library.find_sidecar(reference) for reference in asked.references]
        sidecars = (sidecar for sidecar in found if sidecar is not None)
    else:
        sidecars = (entry.sidecar for entry in library.scan() if entry.sidecar is not None)
    keep_times = config.output.mtime == "completed"
    return sum(
        library.write_companions(each, unix_seconds(each.times.completed_at) if keep_times else None)
        for each in sidecars
    )


def _line(problem: Problem) -> str:
    what = problem.path or problem.reference or ""
    of = f" (of {problem.reference})" if problem.path and problem.reference else ""
    return f"{problem.verdict:<10}  {what}{of}: {problem.message}"


def _outcome_lines(report: Report) -> Iterator[str]:
    for number, outcome in report.outcomes.items():
        problem, accepted = report.problems[number], outcome.mended and outcome.message == ACCEPTED
        word = "accepted" if accepted else "mended" if outcome.mended else "not mended"
        text = f"{word:<10}  {outcome.path or problem.path or problem.reference}"
        yield f"{text}: {outcome.message}" if outcome.message else text


def _summary(report: Report, repair: Repair | None) -> str:
    files, runs = format_count(report.files, "file"), format_count(report.runs, "run")
    looked = f"{files} of {runs} verified, {format_size(report.bytes)}"
    counts = Counter(problem.verdict for problem in report.problems)
    counted = [f"{counts[verdict]:,} {verdict}" for verdict in FileVerdict if counts[verdict]]
    text = f"{looked}: {', '.join(counted) if counted else 'all as their sidecars say'}"
    if repair is not None and report.problems:
        word = "accepted" if repair.accepts_missing else "mended"
        text += f", {len(report.problems) - report.left:,} {word}"
        if report.left and not (repair.missing or repair.accepts_missing) and counts[FileVerdict.MISSING]:
            text += " (--repair --missing fetches what is gone, too)"
    elif counted:
        text += f" ({_ways(counts)})"
    if report.companions:
        text += f"; {format_count(report.companions, 'XMP file')} written"
    if report.skipped:
        text += f"; {format_count(report.skipped, 'output')} left out on purpose"
    if report.removed:
        text += f"; {format_count(report.removed, 'output')} removed on purpose"
    if report.unknown:
        text += f"; {format_count(len(report.unknown), 'file')} that no sidecar names"
    return text


def _ways(counts: Mapping[FileVerdict, int]) -> str:
    """Say how what was found is mended."""
    ways = []
    if any(counts[verdict] for verdict in FileVerdict if verdict is not FileVerdict.MISSING):
        ways.append("--repair fetches again what is damaged")
    if counts[FileVerdict.MISSING]:
        ways.append(
            "of what is missing --repair finds what you moved, --repair --missing also fetches the rest, and "
            "--accept-missing lets go what you deleted"
        )
    return "; ".join(ways)


def _document(report: Report) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "runs": report.runs,
        "files": report.files,
        "bytes": report.bytes,
        "forgotten": report.passed_over,
        "skipped": report.skipped,
        "companions": report.companions,
        "removed": report.removed,
        "unknown": report.unknown,
        "problems": [_problem(each, report.outcomes.get(at)) for at, each in enumerate(report.problems)],
    }


def _problem(problem: Problem, outcome: VerifyOutcome | None) -> dict[str, Any]:
    return {
        "problem": problem.verdict.value,
        "reference": problem.reference,
        "run_id": problem.sidecar.run_id if problem.sidecar else None,
        "output_id": problem.output.output_id if problem.output else None,
        "path": problem.path,
        "message": redact(problem.message),
        "repair": None
        if outcome is None
        else {
            "mended": outcome.mended,
            "message": redact(outcome.message),
            "path": outcome.path,
            "kept_as": outcome.kept_as,
        },
    }
