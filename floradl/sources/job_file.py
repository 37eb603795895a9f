"""Job files: their text -> `RunRequest`s and back, and the dropping of one into the watch folder.

By content, whatever the extension: lines of references, a table (`job_table`), YAML or JSON, FLORA's own too
(`job_document`); an empty file is a job by its name. A file is taken whole or refused whole.
"""

from __future__ import annotations

import codecs
import os
import pwd
import re
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
from msgspec.structs import replace

from floradl.errors import ConfigError, JobError
from floradl.fs.folders import open_root, sync_folder
from floradl.fs.permissions import make_above
from floradl.models import Action, Reference, RunRequest, bare, refuse_joined, visible
from floradl.portability import flush
from floradl.redaction import cut, printable
from floradl.sources.job_document import Fault, encodable, few, read_documents, reference_of

_LONGEST_KEY = 100
_MOST_AT_ONCE = 512 << 10  # bytes of a job file that is written here: the inbox takes twice as many
_NAME_SUFFIX = re.compile(r"\.(txt|ya?ml|json|job|csv|tsv)$", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")
_HEADING = re.compile(
    r"(?:^|[,;\t])[\"\s]*(?:run[\s_-]*(?:id)?|reference|url)[\"\s]*(?:$|[,;\t])", re.IGNORECASE | re.MULTILINE
)
_COMMENT = re.compile(r"(^|\s)#.*")
# What a first line of YAML or JSON looks like; no reference starts so, for it has no space after a colon.
_DOCUMENT = re.compile(r"""(-(\s|$)|---|[{\["'!&*?|>%]|[^\s:]+\s*:(\s|$))""")
# A reference alone, which is YAML too: more may follow. Or a row of a table.
_QUOTED = re.compile(r"""(["'])[^"']*\1([,;\t].*)?""")
_WEB_PAGE = re.compile(r"\s*<(!doctype|html|head|\?xml)\b", re.IGNORECASE)
_PLAIN = re.compile(r"([^\W_][\w.-]*/)?run_[\w.-]+")
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx, .ods, .numbers; .xls
_COLUMNS = re.compile(r"[,;\t]")
_NO_TABLE = "; a table is known by its first line, in which a column is headed 'run_id'"
_NOTHING = (
    "this names no run: write a reference (RUN_ID, TECHNIQUE/RUN_ID, or the run's API URL) on each line"
)


def drop_job(watch_dir: Path, text: str, reader: int | None = None) -> Path:
    """Put a job file with `text` into the watch folder, as `drop_jobs`, and return its path."""
    return drop_jobs(watch_dir, (text,), reader)[0]


def drop_jobs(watch_dir: Path, texts: Iterable[str], reader: int | None = None) -> list[Path]:
    """Put job files into the watch folder, each whole and on disk; return their paths.

    The folder is made where it is missing. `reader` is the user id of the daemon, where that is known: it may
    read the files, whatever the umask. Raises `ConfigError` where one cannot be written; then none is there.
    """
    stem = f"add-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}-{os.urandom(4).hex()}"
    written: list[tuple[Path, Path]] = []
    try:
        make_above(watch_dir)
        watch_dir.mkdir(exist_ok=True)
        for number, text in enumerate(texts):
            name = f"{stem}-{number:05}.txt"
            written.append((watch_dir / f".{name}.tmp", watch_dir / name))
            _write(written[-1][0], text.encode(), reader)
        for hidden, path in written:
            hidden.rename(path)
        with open_root(watch_dir) as folder, suppress(OSError):  # without it the files are whole anyway
            sync_folder(folder)
    except OSError as error:
        for hidden, _ in written:
            with suppress(OSError):
                hidden.unlink()
        raise ConfigError(
            f"nothing was queued: the watch folder {watch_dir} cannot be written to ({error.strerror}); "
            "give this user the rights to it, or name another with queue.watch_dir"
        ) from error
    return [path for _, path in written]


def sweep(watch_dir: Path, before: float) -> None:
    """Remove half-written job files of before then (unix seconds). Raises `OSError`."""
    for path in watch_dir.glob(".add-*.txt.tmp"):
        with suppress(OSError):  # the one who writes it has just renamed it, or it is not a file at all
            if path.lstat().st_mtime < before:
                path.unlink()


def _write(path: Path, data: bytes, reader: int | None) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with os.fdopen(fd, "wb") as file:
        if reader is not None and reader not in {0, os.geteuid()}:
            _let_read(fd, reader)
        file.write(data)
        file.flush()
        flush(fd)


def _let_read(fd: int, reader: int) -> None:
    """Let a user read the file: by its group where that is one of the user's, else as anybody may.

    Its group may then, too: who is in it is not "other", and a user whom no list knows may be in it.
    """
    found = os.fstat(fd)
    by = stat.S_IRGRP if found.st_gid in _groups(reader) else stat.S_IRGRP | stat.S_IROTH
    if found.st_mode & by != by:
        os.fchmod(fd, stat.S_IMODE(found.st_mode) | by)


def _groups(user: int) -> frozenset[int]:
    try:
        entry = pwd.getpwuid(user)
        return frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    except (KeyError, OSError):  # a user of a container's
        return frozenset()


def parse_job(data: bytes, name: str, relabelled: set[str] | None = None) -> tuple[RunRequest, ...]:
    """Read a job file, by `name` where it is empty; each run once. Raises `JobError` with line and key.

    `relabelled` takes the runs in it that have several labels, of which the last counts.
    """
    text = _decode(data)
    if not visible(text).strip():
        return (_order_by_name(name),)
    orders = merge((order for order, _ in _read(text)), relabelled)
    if not orders:
        raise JobError(_NOTHING)
    return orders


def parse_queue(data: bytes) -> tuple[RunRequest, ...]:
    """Read the queue file, which may be empty. Raises `JobError` as `parse_job`, and for `retry`."""
    orders = []
    for order, fault in _read(_decode(data)):
        if order.action is Action.RETRY:  # each time that the file is read again it would bring the run back
            raise fault(
                "the queue file cannot retry, since it stays: use `floradl retry`, or drop a job file"
            )
        orders.append(order)
    return merge(orders)


def render_orders(orders: Iterable[RunRequest]) -> str:
    """Write a job file that `parse_job` reads back. Raises `JobError` for a label that no file can hold."""
    return "".join(_lines(tuple(orders)))


def render_jobs(orders: Iterable[RunRequest]) -> Iterator[str]:
    """Write as many job files as the inbox needs to take all. Raises `JobError` as `render_orders`."""
    job: list[str] = []
    size = 0
    for line in _lines(tuple(orders)):
        more = len(line) if line.isascii() else len(line.encode())
        if job and size + more > _MOST_AT_ONCE:
            yield "".join(job)
            job, size = [], 0
        job.append(line)
        size += more
    if job:
        yield "".join(job)


def _lines(orders: Sequence[RunRequest]) -> Iterator[str]:
    """Yield a line for each: references where all are no more than that, else JSON."""
    plain = (RunRequest(each.reference) == each and _PLAIN.fullmatch(str(each.reference)) for each in orders)
    if all(plain) and not any(_may_be_table(str(each.reference)) for each in orders[:1]):
        for order in orders:
            yield f"{order.reference}\n"
        return
    for order in orders:
        said = {
            "technique": order.reference.technique,
            "label": order.label,
            "action": None if order.action is Action.FETCH else order.action,
            "kinds": order.kinds,
            "meta": order.meta,
        }
        try:
            for text in (order.label or "", *order.meta, *order.meta.values()):
                encodable(text)
        except ValueError as error:
            raise JobError(str(error)) from error
        run = {"run": order.reference.run_id, **{key: value for key, value in said.items() if value}}
        yield f"{msgspec.json.encode(run).decode()}\n"


def described(error: JobError) -> str:
    """Return the message of `error` with its place.

    `line 3, key runs[2].run: …`, or in a table `row 73 (line 74), column technique: …`.
    """
    places = []
    if error.row is not None:
        places.append(f"row {error.row} (line {error.line})" if error.line else f"row {error.row}")
    elif error.line is not None:
        places.append(f"line {error.line}")
    for what, name in (("key", error.key), ("column", error.column)):
        if name is not None:  # it was written by others, and may be of any length
            places.append(f"{what} {printable(cut(name, _LONGEST_KEY))}")
    return f"{', '.join(places)}: {error}" if places else str(error)


def _decode(data: bytes) -> str:
    if data.startswith(_WORKBOOKS):
        raise JobError("this is a spreadsheet program's own file (.xlsx or the like): save it as CSV")
    utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf_16 else "utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = 'this is not text in UTF-8: save the file as UTF-8 (in Excel: "CSV UTF-8")'
        raise JobError(message, line=line) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise JobError("this is not text, or UTF-16 without its mark: save the file as UTF-8", line=line)
    return text


def _read(text: str) -> Iterator[tuple[RunRequest, Fault]]:
    if _WEB_PAGE.match(text):
        raise JobError("this is a web page, not FLORA's answer: look at what it says")
    if _may_be_table(text):
        from floradl.sources.job_table import find_table, read_table  # noqa: PLC0415 - for tables alone

        if (start := find_table(text)) is not None:
            return read_table(text, start)
    written = _LINE_END.split(text)
    if not text.isascii():  # files that were put together have the mark of each in their midst
        written = [visible(line) for line in written]
    lines = (_COMMENT.sub("", line).strip() for line in written)
    first = next((line for line in lines if line), "")
    if not _DOCUMENT.match(first) or _QUOTED.fullmatch(first):
        return _read_lines(written)
    return read_documents(text)


def _may_be_table(text: str) -> bool:
    """Whether some line has a heading in it that a table of runs has."""
    return not text.isascii() or _HEADING.search(text) is not None


def _read_lines(lines: list[str]) -> Iterator[tuple[RunRequest, Fault]]:
    for number, written in enumerate(lines, 1):
        line = _COMMENT.sub("", written).strip()
        if not line:
            continue
        try:
            refuse_joined(line)
            reference = reference_of(line)
        except ValueError as error:
            hint = _NO_TABLE if _COLUMNS.search(line) and not line.startswith("http") else ""
            raise JobError(f"{error}{hint}", line=number) from error
        yield RunRequest(reference), partial(_line_fault, number)


def _line_fault(line: int, message: str) -> JobError:
    return JobError(message, line=line)


def _order_by_name(name: str) -> RunRequest:
    stem = _NAME_SUFFIX.sub("", name)
    try:
        return RunRequest(Reference.of(bare(encodable(stem))))
    except ValueError as error:
        raise JobError(
            "this file is empty, and its name is not a run id: write references into it, "
            "or call it by the run (run_abc123, run_abc123.txt)"
        ) from error


def merge(orders: Iterable[RunRequest], relabelled: set[str] | None = None) -> tuple[RunRequest, ...]:
    """Keep each run once: where it first stood, under the first technique named, with the last action.

    Of labels, kinds and each key of `meta` the last that was written counts; `relabelled` takes the runs
    that have several labels. Raises `JobError` where a run's `meta` becomes too large.
    """
    merged: dict[str, RunRequest] = {}
    for order in orders:
        run_id = order.reference.run_id
        if known := merged.get(run_id):
            if relabelled is not None and known.label and order.label and known.label != order.label:
                relabelled.add(run_id)
            merged[run_id] = replace(
                order,
                reference=Reference(run_id, known.reference.technique or order.reference.technique),
                label=order.label or known.label,
                kinds=order.kinds or known.kinds,
                meta=_joined(known.meta, order.meta),
            )
        else:
            merged[run_id] = order
    return tuple(merged.values())


def _joined(first: dict[str, str], then: dict[str, str]) -> dict[str, str]:
    try:
        return few(first | then)
    except ValueError as error:
        raise JobError(str(error)) from error
