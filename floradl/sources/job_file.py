"""Job files: their text -> `RunRequest`s and back, and the dropping of one into the watch folder.

By content, whatever the extension: lines of references, YAML or JSON (one run, a list, or `{runs: […]}`), or
the body of a FLORA webhook; an empty file is a job by its name. A file is taken whole or refused whole.

Sources: the reference of FLORA's webhooks for their body (`data.run_id`; older guides write `runId`).
"""

from __future__ import annotations

import codecs
import json
import os
import pwd
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from floradl.errors import ConfigError, JobError
from floradl.fs.folders import open_root, sync_folder
from floradl.fs.permissions import make_above
from floradl.models import Action, Reference, RunRequest, bare, visible
from floradl.portability import flush
from floradl.redaction import cut, printable
from floradl.yaml_reader import Document, DocumentError, Path as YamlPath, Value, dotted, load, nearest

_RUN_KEYS = ("technique", "run", "label", "action")
_KNOWN_AS = {  # what FLORA and people call them -> our key
    **dict.fromkeys(("run_id", "runid", "id", "reference", "poll_url", "pollurl"), "run"),
    **dict.fromkeys(("technique_id", "techniqueid", "slug"), "technique"),
    "name": "label",
}
_LONGEST_KEY = 100
_NAME_SUFFIX = re.compile(r"\.(txt|ya?ml|json|job)$", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")
_COMMENT = re.compile(r"(^|\s)#.*")
# What a first line of YAML or JSON looks like; no reference starts so, for it has no space after a colon.
_DOCUMENT = re.compile(r"""(-(\s|$)|---|[{\["'!&*?|>%]|[^\s:]+\s*:(\s|$))""")
_QUOTED = re.compile(r"""(["'])[^"']*\1""")  # a reference alone, which is YAML too: more may follow
_JOINED = re.compile(r"[,;](run_|$)")
_PLAIN = re.compile(r"([^\W_][\w.-]*/)?run_[\w.-]+")
_NOTHING = (
    "this names no run: write a reference (RUN_ID, TECHNIQUE/RUN_ID, or the run's API URL) on each line"
)
_Place = tuple[int | None, str | None]


def drop_job(watch_dir: Path, text: str, reader: int | None = None) -> Path:
    """Put a job file with `text` into the watch folder, whole and on disk, and return its path.

    The folder is made where it is missing. `reader` is the user id of the daemon, where that is known: it may
    read the file, whatever the umask. Raises `ConfigError` where the file cannot be written so.
    """
    day = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    name = f"add-{day}-{os.getpid()}-{os.urandom(4).hex()}.txt"
    hidden, path = watch_dir / f".{name}.tmp", watch_dir / name
    try:
        make_above(watch_dir)
        watch_dir.mkdir(exist_ok=True)
        _write(hidden, text.encode(), reader)
        hidden.rename(path)
        with open_root(watch_dir) as folder, suppress(OSError):  # without it the file is whole anyway
            sync_folder(folder)
    except OSError as error:
        with suppress(OSError):
            hidden.unlink()
        raise ConfigError(
            f"nothing was queued: the watch folder {watch_dir} cannot be written to ({error.strerror}); "
            "give this user the rights to it, or name another with queue.watch_dir"
        ) from error
    return path


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


def parse_job(data: bytes, name: str) -> tuple[RunRequest, ...]:
    """Read a job file, by `name` where it is empty; each run once. Raises `JobError` with line and key."""
    text = _decode(data)
    if not visible(text).strip():
        return (_order_by_name(name),)
    orders = _merge(order for order, _ in _read(text))
    if not orders:
        raise JobError(_NOTHING)
    return orders


def parse_queue(data: bytes) -> tuple[RunRequest, ...]:
    """Read the queue file, which may be empty. Raises `JobError` as `parse_job`, and for `retry`."""
    orders = []
    for order, (line, key) in _read(_decode(data)):
        if order.action is Action.RETRY:  # each time that the file is read again it would bring the run back
            message = "the queue file cannot retry, since it stays: use `floradl retry`, or drop a job file"
            raise JobError(message, line=line, key=key)
        orders.append(order)
    return _merge(orders)


def render_orders(orders: Iterable[RunRequest]) -> str:
    """Write a job file that `parse_job` reads back. Raises `JobError` for a label that no file can hold."""
    orders = tuple(orders)
    plain = (RunRequest(each.reference) == each and _PLAIN.fullmatch(str(each.reference)) for each in orders)
    if all(plain):
        return "".join(f"{order.reference}\n" for order in orders)
    runs = []
    for order in orders:
        run = {"run": order.reference.run_id, "technique": order.reference.technique, "label": order.label}
        if order.action is not Action.FETCH:
            run["action"] = order.action.value
        kept = {key: _encodable(value) for key, value in run.items() if value}
        runs.append(json.dumps(kept, ensure_ascii=False))
    return '{"runs": [\n' + ",\n".join(runs) + "\n]}\n"


def described(error: JobError) -> str:
    """Return the message of `error` with its place: `line 3, key runs[2].run: …`."""
    places = []
    if error.line is not None:
        places.append(f"line {error.line}")
    if error.key is not None:  # it was written by others, and may be of any length
        places.append(f"key {printable(cut(error.key, _LONGEST_KEY))}")
    return f"{', '.join(places)}: {error}" if places else str(error)


def _decode(data: bytes) -> str:
    utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf_16 else "utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise JobError("this is not text in UTF-8: save the file as UTF-8", line=line) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise JobError("this is not text, or UTF-16 without its mark: save the file as UTF-8", line=line)
    return text


def _read(text: str) -> Iterator[tuple[RunRequest, _Place]]:
    written = _LINE_END.split(text)
    if not text.isascii():  # files that were put together have the mark of each in their midst
        written = [visible(line) for line in written]
    lines = [_COMMENT.sub("", line).strip() for line in written]
    first = next((line for line in lines if line), "")
    if not _DOCUMENT.match(first) or _QUOTED.fullmatch(first):
        return _read_lines(lines)
    try:
        document = load(text)
    except DocumentError as error:
        raise JobError(str(error), line=error.line, key=error.key) from error
    return _read_document(document)


def _read_lines(lines: list[str]) -> Iterator[tuple[RunRequest, _Place]]:
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        if _JOINED.search(line):
            raise JobError("one reference stands on a line, without commas", line=number)
        try:
            reference = _reference(line)
        except ValueError as error:
            raise JobError(str(error), line=number) from error
        yield RunRequest(reference), (number, None)


def _reference(text: str) -> Reference:
    text = bare(text)
    if "?" in text and not text.startswith(("http://", "https://")):
        # What follows a '?' may be a signature: it is not repeated.
        raise ValueError("no reference has a '?' in it: write RUN_ID, TECHNIQUE/RUN_ID, or the run's API URL")
    return Reference.parse(text)


def _order_by_name(name: str) -> RunRequest:
    stem = _NAME_SUFFIX.sub("", name)
    try:
        return RunRequest(Reference.of(bare(_encodable(stem))))
    except (ValueError, JobError) as error:
        raise JobError(
            "this file is empty, and its name is not a run id: write references into it, "
            "or call it by the run (run_abc123, run_abc123.txt)"
        ) from error


def _read_document(document: Document) -> Iterator[tuple[RunRequest, _Place]]:
    value = document.value
    path: YamlPath = ()
    if isinstance(value, dict) and isinstance(value.get("data"), dict):
        yield _webhook(document)
        return
    if isinstance(value, dict) and "runs" in value:
        for key in value:
            if key != "runs":
                raise _fault(document, (key,), "beside 'runs' stands no other key: put it into each run")
        value, path = value["runs"], ("runs",)
        if not isinstance(value, list | None):
            raise _fault(document, path, "'runs' is a list of runs: start each with '- '")
    if value is None:
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield _run(document, (*path, index), item)
    else:
        yield _run(document, path, value)


def _fault(document: Document, path: YamlPath, message: str) -> JobError:
    return JobError(message, line=document.lines.get(path), key=dotted(path) or None)


def _webhook(document: Document) -> tuple[RunRequest, _Place]:
    data = document.value.get("data") if isinstance(document.value, dict) else None
    if isinstance(data, dict):
        for key in ("run_id", "runId"):
            if isinstance(run_id := data.get(key), str):
                path = ("data", key)
                return RunRequest(_checked(document, path, run_id)), (document.lines[path], dotted(path))
    raise _fault(document, ("data",), "this looks like a webhook of FLORA's, but 'data' has no 'run_id'")


def _checked(document: Document, path: YamlPath, text: str, technique: str | None = None) -> Reference:
    try:
        reference = _reference(text)
    except ValueError as error:
        raise _fault(document, path, str(error)) from error
    if technique is None:
        return reference
    if reference.technique not in {None, technique}:
        raise _fault(document, path, "'run' names another technique than 'technique' does: keep one")
    try:
        return Reference.of(reference.run_id, technique)
    except ValueError as error:
        raise _fault(document, (*path[:-1], "technique"), str(error)) from error


def _run(document: Document, path: YamlPath, value: Value) -> tuple[RunRequest, _Place]:
    place = (document.lines.get(path), dotted(path) or None)
    if isinstance(value, str):
        return RunRequest(_checked(document, path, value)), place
    if not isinstance(value, dict):
        raise _fault(
            document, path, "a run is a reference, or has the keys technique, run and perhaps label, action"
        )
    texts: dict[str, str] = {}
    for key, part in value.items():
        if key not in _RUN_KEYS:
            raise _fault(document, (*path, key), _unknown_key(key))
        if isinstance(part, dict | list):
            raise _fault(document, (*path, key), f"{key!r} is one text, not a list or mapping")
        if part:
            texts[key] = part
    if "run" not in texts:
        raise _fault(document, path, "this run has no 'run': write its id (run: run_abc123)")
    action = texts.get("action", Action.FETCH)
    if action not in {Action.FETCH, Action.RETRY, Action.FORGET}:
        raise _fault(document, (*path, "action"), "an action is 'retry' or 'forget'; leave it out to fetch")
    reference = _checked(document, (*path, "run"), texts["run"], texts.get("technique"))
    return RunRequest(reference, texts.get("label"), Action(action)), place


def _unknown_key(key: str) -> str:
    near = nearest(key.lower(), (*_RUN_KEYS, *_KNOWN_AS, "runs"), cutoff=0.75)
    message = f"{key[:60]!a} is not a key of a run"
    if near:
        return f"{message}: did you mean {_KNOWN_AS.get(near, near)!r}?"
    return f"{message}: it has {', '.join(_RUN_KEYS)}"


def _merge(orders: Iterable[RunRequest]) -> tuple[RunRequest, ...]:
    """Keep each run once: where it first stood, under the first technique named, with the last action."""
    merged: dict[str, RunRequest] = {}
    for order in orders:
        run_id = order.reference.run_id
        if known := merged.get(run_id):
            technique = known.reference.technique or order.reference.technique
            label = order.label or known.label
            merged[run_id] = replace(order, reference=Reference(run_id, technique), label=label)
        else:
            merged[run_id] = order
    return tuple(merged.values())


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise JobError(f"{text[:60]!a} has characters that no UTF-8 file can hold") from error
    if "\0" in text:
        raise JobError("a label cannot hold a NUL character")
    return text
