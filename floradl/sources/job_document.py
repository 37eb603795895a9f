"""Documents as jobs: YAML or JSON in our own words, and FLORA's own JSON, one value or many -> `RunRequest`s.

FLORA's is known by its `run_id`: the answer that started a run, a run, a page of a list, a webhook. What else
stands in it is FLORA's, and a new field is no mistake; in our own words each key must be known.

Sources: the reference of FLORA's API and webhooks (older guides write `runId`, `pollUrl`); RFC 8259 (JSON).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

from floradl.errors import JobError
from floradl.models import Action, OutputKind, Reference, RunRequest, bare, bounded
from floradl.redaction import hide_signatures, printable, redact
from floradl.yaml_reader import MAX_BYTES, DocumentError, Path as YamlPath, dotted, load, nearest

MAX_META: Final = 64
"""How many keys of `meta` a run may have."""

TWO_TECHNIQUES: Final = "'run' names another technique than 'technique' does: keep one"
"""What is said of a run with two techniques; a table says it in its headings' words."""

Fault: TypeAlias = Callable[[str], JobError]
"""Makes the error for a message about one place in a job file."""

_RUN_KEYS = ("technique", "run", "label", "action", "kinds", "meta")
_KNOWN_AS = {  # what FLORA and people call them -> our key
    **dict.fromkeys(("run_id", "runid", "id", "reference", "poll_url", "pollurl"), "run"),
    **dict.fromkeys(("technique_id", "techniqueid", "slug"), "technique"),
    "name": "label",
    "kind": "kinds",
}
_PAGES = ("technique_runs", "techniqueRuns", "generations")
_LONGEST_NAME = 100  # characters of a key of `meta`
_BETWEEN = re.compile(r"(?:[\s\ufeff]|#[^\r\n]*)*+")  # what may stand between two JSON values
_NEWLINE = re.compile(r"\r\n|\r|\n")
_SEPARATORS = re.compile(r"[\s,;]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ACTIONS = {"": Action.FETCH, **{action.value: action for action in Action}}
_WORDS = {True: "true", False: "false"}


class FieldError(ValueError):
    """A field of a run is wrong: `field` is its key, below `meta` the path to it."""

    def __init__(self, message: str, *field: str) -> None:
        super().__init__(message)
        self.field = field


def request_of(
    run: str,
    technique: str | None = None,
    label: str | None = None,
    action: str = "",
    kinds: str = "",
    meta: Mapping[str, str] | None = None,
) -> RunRequest:
    """Return the request that these texts make; an empty one says nothing. Raises `FieldError`."""
    field: tuple[str, ...] = ("run",)
    try:
        reference = reference_of(run, technique)
        if technique:
            field = ("technique",)
            reference = Reference.of(reference.run_id, technique)
        if not (label or action or kinds or meta):
            return RunRequest(reference)
        field = ("label",)
        label = label_value(label) if label else None
        field = ("action",)
        wanted = action_of(action)
        field = ("kinds",)
        only = kinds_of(kinds)
        found: dict[str, str] = {}
        for name, text in (meta or {}).items():
            field = ("meta", name)
            if text := text.strip():
                found[meta_name(name)] = meta_value(text)
        field = ("meta",)
        return RunRequest(reference, label, wanted, only, few(found))
    except ValueError as error:
        raise FieldError(str(error), *field) from error


def reference_of(text: str, technique: str | None = None) -> Reference:
    """Read a reference as people write it. Raises `ValueError`, also where it has not that `technique`."""
    text = bare(text)
    if "?" in text and not text.startswith(("http://", "https://")):
        # What follows a '?' may be a signature: it is not repeated.
        raise ValueError("no reference has a '?' in it: write RUN_ID, TECHNIQUE/RUN_ID, or the run's API URL")
    reference = Reference.parse(text)
    if technique and reference.technique not in {None, technique}:
        raise ValueError(TWO_TECHNIQUES)
    return reference


def action_of(text: str) -> Action:
    """Read an action. Raises `ValueError` for what is none."""
    if text not in _ACTIONS:
        raise ValueError("an action is 'retry' or 'forget'; leave it out to fetch")
    return _ACTIONS[text]


def technique_of(run_id: str, urls: tuple[object, ...], names: tuple[object, ...]) -> str | None:
    """Return the technique that FLORA's own fields name, None where none does.

    It is that of the first of `urls` that is the run's and has one, else the first usable one of `names`.
    """
    for url in urls:
        if isinstance(url, str):
            try:
                polled = Reference.parse(url)
            except ValueError:
                continue
            if polled.run_id == run_id and polled.technique is not None:
                return polled.technique
    for name in names:
        if isinstance(name, str) and name:
            try:
                return Reference.of(run_id, name).technique
            except ValueError:
                continue
    return None


def kinds_of(text: str) -> tuple[OutputKind, ...]:
    """Read kinds, with commas, semicolons or spaces between them. Raises `ValueError` for what is none."""
    if not text:
        return ()
    words = [word for word in _SEPARATORS.split(text.casefold()) if word]
    for word in words:
        if word not in _KINDS:
            near = nearest(word, _KINDS)
            hint = f"did you mean {near!r}?" if near else f"it is one of {', '.join(_KINDS)}"
            raise ValueError(f"{word[:60]!a} is not a kind: {hint}")
    return tuple(dict.fromkeys(_KINDS[word] for word in words))


_KINDS = {kind.value: kind for kind in OutputKind}


def meta_name(text: str) -> str:
    """Return a key of `meta` as it is kept. Raises `ValueError` for what can be none."""
    name = text.strip()
    if not name or len(name) > _LONGEST_NAME or _CONTROL.search(name):
        raise ValueError(
            f"{name[:60]!a} cannot be a key of 'meta': it has 1 to {_LONGEST_NAME} characters, on one line"
        )
    return encodable(name)


def label_value(text: str) -> str:
    """Return what is kept of a label: 1,000 characters, and no secret. Raises as `encodable`."""
    return bounded(encodable(hide_signatures(text)))


def meta_value(text: str) -> str:
    """Return what is kept of a value of `meta`: 1,000 characters, and no secret. Raises as `encodable`."""
    return bounded(encodable(hide_signatures(text.strip())))


def few(meta: dict[str, str]) -> dict[str, str]:
    """Return `meta`. Raises `ValueError` where it has more keys than a run may have."""
    if len(meta) > MAX_META:
        raise ValueError(f"a run has at most {MAX_META} keys of 'meta', and here are {len(meta):,}")
    return meta


def encodable(text: str) -> str:
    """Return `text`. Raises `ValueError` where it has a NUL, or no UTF-8 file can hold it."""
    if "\0" in text:
        raise ValueError("neither a label nor 'meta' can hold a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{text[:60]!a} has characters that no UTF-8 file can hold") from error
    return text


def read_documents(text: str) -> Iterator[tuple[RunRequest, Fault]]:
    """Read a YAML document, or JSON values one after the other; each run comes with what reports it.

    Raises `JobError` with line and key.
    """
    start = _skip(text, 0)
    if text[start : start + 1] not in {"{", "["}:
        yield from _runs_of(_yaml(text))
        return
    line, seen, first = 1, 0, True
    while start < len(text):
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            if first and len(text) <= MAX_BYTES:  # YAML, whose flow style looks alike
                yield from _runs_of(_yaml(text))
                return
            raise _broken(text, start, error) from error
        line += _count_lines(text, seen, start)
        yield from _runs_of(_Document(value, text[start:end], line))
        seen, first, start = start, False, _skip(text, end)


def _skip(text: str, start: int) -> int:
    found = _BETWEEN.match(text, start)
    return found.end() if found else start


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object: keep one")
    return found


# Numbers stay the text that was written, as in YAML.
_DECODER = json.JSONDecoder(object_pairs_hook=_mapping, parse_int=str, parse_float=str, parse_constant=str)


def _count_lines(text: str, start: int, end: int) -> int:
    if text.find("\r", start, end) < 0:
        return text.count("\n", start, end)
    return len(_NEWLINE.findall(text, start, end))


def _behind_text(text: str, at: int) -> int:
    """Return the place before `at` where the text ends: what lacks in a line is missed in the next one."""
    while at > 0 and text[at - 1].isspace():
        at -= 1
    return at


def _broken(text: str, start: int, error: ValueError | RecursionError) -> JobError:
    if isinstance(error, RecursionError):
        why, at = "it is nested too deeply", start
    elif isinstance(error, json.JSONDecodeError):
        why, at = error.msg[:1].lower() + error.msg[1:], _behind_text(text, error.pos)
    else:
        why, at = str(error), start
    message = f"this is not valid JSON, of which each object may have a line of its own: {why}"
    return JobError(message, line=_count_lines(text, 0, at) + 1)


class _Document:
    """A value of a file, and its `text`, which begins in that 1-based line; knows the line of each part."""

    def __init__(self, value: Any, text: str, line: int, lines: Mapping[YamlPath, int] | None = None) -> None:
        self.value = value
        self._text = text
        self._line = line
        self._lines = lines

    def fault(self, path: YamlPath, message: str) -> JobError:
        """Return the error for a message about the part at `path`."""
        return JobError(message, line=self._line_of(path), key=dotted(path) or None)

    def _line_of(self, path: YamlPath) -> int | None:
        if "\n" not in self._text and "\r" not in self._text:
            return self._line
        if self._lines is None:
            try:
                self._lines = load(self._text).lines
            except DocumentError:  # it is larger, or deeper, than what is read there
                self._lines = {(): 1}
        line = self._lines.get(path)
        return None if line is None else line + self._line - 1


def _yaml(text: str) -> _Document:
    try:
        document = load(text)
    except DocumentError as error:
        raise JobError(str(error), line=error.line, key=error.key) from error
    return _Document(document.value, text, 1, document.lines)


def _runs_of(document: _Document) -> Iterator[tuple[RunRequest, Fault]]:
    value = document.value
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _runs_in(document, (index,), item)
    elif value is not None:
        yield from _runs_in(document, (), value)


def _runs_in(document: _Document, path: YamlPath, value: Any) -> Iterator[tuple[RunRequest, Fault]]:
    """Read a run, or what holds some: a page of a list, a webhook, `runs`."""
    if isinstance(value, dict) and _run_key(value) is None:
        if isinstance(value.get("data"), dict):
            yield _webhook(document, path, value["data"])
            return
        if isinstance(value.get("error"), dict) and "run" not in value:
            raise document.fault(path, _refused(value["error"]))
        page = next((name for name in _PAGES if isinstance(value.get(name), list)), None)
        if page is None and not path and "runs" in value:
            page = "runs"
            for key in value:
                if key != page:
                    raise document.fault((key,), "beside 'runs' stands no other key: put it into each run")
            if not isinstance(value[page], list | None):
                raise document.fault((page,), "'runs' is a list of runs: start each with '- '")
        if page is not None:
            for index, item in enumerate(value[page] or ()):
                place = (*path, page, index)
                yield _run(document, place, item), partial(document.fault, place)
            return
    yield _run(document, path, value), partial(document.fault, path)


def _refused(error: Mapping[str, Any]) -> str:
    said = ": ".join(part for part in (error.get("code"), error.get("message")) if isinstance(part, str))
    return f"this is an error that FLORA answered with, and names no run: {printable(redact(said))[:300]}"


def _webhook(document: _Document, path: YamlPath, data: Mapping[str, Any]) -> tuple[RunRequest, Fault]:
    for key in ("run_id", "runId"):
        if isinstance(run_id := data.get(key), str):
            fault = partial(document.fault, (*path, "data", key))
            try:
                return RunRequest(reference_of(run_id)), fault
            except ValueError as error:
                raise fault(str(error)) from error
    message = "this looks like a webhook of FLORA's, but 'data' has no 'run_id'"
    raise document.fault((*path, "data"), message)


def _run_key(value: Mapping[str, Any]) -> str | None:
    """Return the key that makes a mapping FLORA's; None where it is in our own words."""
    if isinstance(value.get("run"), str):
        return None
    return next((key for key in ("run_id", "runId") if isinstance(value.get(key), str)), None)


def _run(document: _Document, path: YamlPath, value: Any) -> RunRequest:
    try:
        if isinstance(value, str):
            return RunRequest(reference_of(value))
        if isinstance(value, dict):
            key = _run_key(value)
            return _own(value) if key is None else _floras(value, key)
    except FieldError as error:
        raise document.fault((*path, *error.field), str(error)) from error
    except ValueError as error:
        raise document.fault(path, str(error)) from error
    message = "a run is a reference, or has the keys technique, run and perhaps label, kinds, meta, action"
    raise document.fault(path, message)


def _own(value: Mapping[str, Any]) -> RunRequest:
    """Read a run in our own words. Raises `FieldError`, `ValueError` for the whole."""
    texts: dict[str, Any] = {}
    for key, part in value.items():
        if key not in _RUN_KEYS:
            raise FieldError(_unknown_key(key, value), key)
        if key == "kinds":
            texts[key] = _kinds(part)
        elif key == "meta":
            texts[key] = _meta(part)
        elif isinstance(part, dict | list):
            raise FieldError(f"{key!r} is one text, not a list or mapping", key)
        else:
            texts[key] = _text(part)
    if not texts.get("run"):
        raise ValueError("this run has no 'run': write its id (run: run_abc123)")
    return request_of(**texts)


def _floras(value: Mapping[str, Any], key: str) -> RunRequest:
    """Read an object of FLORA's, to which somebody may have added a label, kinds or meta."""
    try:
        named = reference_of(value[key])
    except ValueError as error:
        raise FieldError(str(error), key) from error
    technique = named.technique
    if technique is None:
        of = value.get("technique")
        if isinstance(of, dict):
            of = of.get("technique_id", of.get("techniqueId"))
        # What floradl itself writes (`status --json`, a sidecar) has a `reference`.
        urls = (value.get("reference"), value.get("poll_url", value.get("pollUrl")))
        technique = technique_of(
            named.run_id, urls, (of, value.get("technique_id", value.get("techniqueId")))
        )
    label, meta, action = value.get("label"), value.get("meta"), value.get("action")
    return request_of(
        named.run_id,
        technique,
        label if isinstance(label, str) else None,
        action if isinstance(action, str) and action in _ACTIONS else "",  # FLORA's own is something else
        _kinds(value.get("kinds")),
        _meta(meta) if isinstance(meta, dict) else None,
    )


def _text(part: Any) -> str:
    return part if isinstance(part, str) else _WORDS.get(part, "")


def _kinds(part: Any) -> str:
    parts = part if isinstance(part, list) else [part]
    if any(isinstance(each, dict | list) for each in parts):
        raise FieldError("'kinds' is a list of kinds: [image, video]", "kinds")
    return " ".join(map(_text, parts))


def _meta(part: Any) -> dict[str, str] | None:
    if part is None or part == "":
        return None
    if not isinstance(part, dict):
        raise FieldError("'meta' is a mapping of names to texts: {client: ACME}", "meta")
    for name, each in part.items():
        if isinstance(each, dict | list):
            raise FieldError("each value of 'meta' is one text, not a list or mapping", "meta", name)
    return {name: _text(each) for name, each in part.items()}


def _unknown_key(key: str, run: Mapping[str, Any]) -> str:
    near = nearest(key.lower(), (*_RUN_KEYS, *_KNOWN_AS, "runs"), cutoff=0.75)
    message = f"{key[:60]!a} is not a key of a run"
    if near:
        return f"{message}: did you mean {_KNOWN_AS.get(near, near)!r}?"
    if "run" not in run:
        return f"{message}, and no run is named here, neither by 'run' nor, as FLORA does, by 'run_id'"
    return f"{message}: it has {', '.join(_RUN_KEYS)}"
