"""YAML and JSON text -> plain values, strictly: what is written is what is read.

Every scalar stays the text that it was written as (YAML 1.1 reads `0123` as 83, `18:00` as 1080 and `no` as
false); only a plain `null`, `~` or nothing at all is None. What makes YAML costly or surprising is refused:
anchors and aliases, merge keys, tags, duplicate keys, several documents, deep nesting. The text is read as a
stream of events, never recursively, so that no input can cost more than its length.

PyYAML is imported at the first text that is YAML: `status` of a floradl without a file needs none.

Sources: YAML 1.1 (the grammar that libyaml reads), RFC 8259 (JSON).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import msgspec

from floradl.errors import FloradlError

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_VALUES = 150_000  # a list that fills MAX_BYTES with run ids has about half of this
_LONGEST = 64  # characters of a name; comparing takes memory and time by the length

Value: TypeAlias = "str | list[Value] | dict[str, Value] | None"
Path: TypeAlias = tuple[str | int, ...]

_Kind: TypeAlias = Literal["scalar", "mapping", "sequence", "end"]
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_DIRECTIVE = re.compile("(?:^|[\n\r\x85\u2028\u2029])%")  # after anything that ends a line in YAML 1.1
# Possessive: what could be given back would cost a hundred bytes for each character of a long string.
_JSON_MARKS: Mapping[str, _Kind] = {"{": "mapping", "[": "sequence", "}": "end", "]": "end"}
_JSON_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[{}\[\]:]|[^\s,:{}\[\]"]++')


class DocumentError(FloradlError):
    """A text that cannot be read. `line` is 1-based, `key` the dotted path of the entry, where known."""

    def __init__(self, message: str, line: int | None = None, key: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.key = key


class Document(msgspec.Struct, frozen=True):
    """What a text holds, and the 1-based line of each path (of an entry, that of its key; `()` is all)."""

    value: Value
    lines: Mapping[Path, int]


class _Token(NamedTuple):
    kind: _Kind
    line: int
    text: str | None = None


def load(text: str) -> Document:
    """Read one JSON or YAML document, strictly; an empty text is None. Raises `DocumentError`."""
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_BYTES or len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise DocumentError("this is larger than 1 MiB, the most that is read")
    # JSON first: YAML takes neither its tabs nor its surrogate pairs.
    return _build(_json_tokens(text) if _is_json(text) else _yaml_tokens(text))


def dotted(path: Path) -> str:
    """`path` as messages show it: `runs[3].label`."""
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return shown.removeprefix(".")


class _Frame:
    """A mapping or sequence that is still open, and the key that waits for its value."""

    def __init__(self, container: dict[str, Value] | list[Value], path: Path) -> None:
        self.container = container
        self.path = path
        self.key: str | None = None


def _build(tokens: Iterator[_Token]) -> Document:
    # One owner of the depth, duplicate and size checks for both grammars.
    top: list[Value] = []
    lines: dict[Path, int] = {}
    stack = [_Frame(top, ())]
    for token in tokens:
        if token.kind == "end":
            stack.pop()
            continue
        frame = stack[-1]
        if isinstance(frame.container, dict) and frame.key is None:
            frame.key = _key(token, frame)
            lines[(*frame.path, frame.key)] = token.line
            continue
        value: Value
        value = {} if token.kind == "mapping" else [] if token.kind == "sequence" else token.text
        path = _place(frame, value, at_top=len(stack) == 1)
        lines.setdefault(path, token.line)
        if len(lines) > MAX_VALUES:
            raise DocumentError(f"this holds more than {MAX_VALUES:,} values: split it", token.line)
        if isinstance(value, dict | list):
            if len(stack) > MAX_DEPTH:
                raise DocumentError(_DEEP, token.line)
            stack.append(_Frame(value, path))
    lines.setdefault((), 1)
    return Document(top[0] if top else None, MappingProxyType(lines))


def _key(token: _Token, frame: _Frame) -> str:
    if token.kind != "scalar":
        raise DocumentError(
            "a list or mapping stands where a key should be (a value that starts with { or [ must be quoted)",
            token.line,
            dotted(frame.path) or None,
        )
    if token.text is None:
        raise DocumentError("this key is empty: write its name before the ':'", token.line)
    if token.text in frame.container:
        place = dotted((*frame.path, token.text))
        raise DocumentError(f"the key {token.text[:60]!a} stands twice here: keep one", token.line, place)
    return token.text


def _place(frame: _Frame, value: Value, *, at_top: bool) -> Path:
    """Put `value` where it belongs, and return its path."""
    container = frame.container
    if isinstance(container, list):
        container.append(value)
        return () if at_top else (*frame.path, len(container) - 1)
    key, frame.key = frame.key or "", None
    container[key] = value
    return (*frame.path, key)


def _is_json(text: str) -> bool:
    if text.lstrip()[:1] not in {"{", "[", '"'}:
        return False
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False  # YAML then, whose flow style looks alike; its reader has the better messages
    return True


def _json_tokens(text: str) -> Iterator[_Token]:
    """Yield the tokens of valid JSON (RFC 8259)."""
    newline = "\n" if "\n" in text else "\r"
    line, seen = 1, 0
    for match in _JSON_TOKEN.finditer(text):
        word = match.group()
        line += text.count(newline, seen, match.start())
        seen = match.start()
        if kind := _JSON_MARKS.get(word):
            yield _Token(kind, line)
        elif word[0] == '"':
            yield _Token("scalar", line, _no_nul(msgspec.json.decode(word, type=str), line))
        elif word != ":":
            yield _Token("scalar", line, None if word == "null" else word)


def _yaml_tokens(text: str) -> Iterator[_Token]:
    if found := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise DocumentError(f"an unprintable character (U+{ord(found.group()):04X}) stands here", line)
    if found := _DIRECTIVE.search(text):
        # Nobody needs one here, and libyaml compares each %TAG with all before it: 13 s for 1 MiB of them.
        raise DocumentError(_PERCENT, text.count("\n", 0, found.end()) + 1)
    import yaml  # noqa: PLC0415 - as said above

    # libyaml where PyYAML was built with it: 20 times faster
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise DocumentError(
                        "a second document starts here: keep one ('---' stands only at the top)", line
                    )
            elif isinstance(event, yaml.NodeEvent):
                yield _yaml_node(event, line)
            elif isinstance(event, yaml.CollectionEndEvent):
                yield _Token("end", line)
    except yaml.MarkedYAMLError as error:
        raise _explained(error, text) from error
    except yaml.YAMLError as error:
        raise DocumentError("this is not valid YAML") from error


def _yaml_node(event: yaml.NodeEvent, line: int) -> _Token:
    import yaml  # noqa: PLC0415 - as said above

    if isinstance(event, yaml.AliasEvent):
        raise DocumentError(_ALIAS, line)
    if event.anchor is not None:
        raise DocumentError("anchors are not read (a value that starts with & must be quoted)", line)
    if getattr(event, "tag", None) is not None:
        raise DocumentError("tags are not read (a value that starts with ! must be quoted)", line)
    if isinstance(event, yaml.MappingStartEvent):
        return _Token("mapping", line)
    if isinstance(event, yaml.SequenceStartEvent):
        return _Token("sequence", line)
    text: str = getattr(event, "value", "")
    plain = not getattr(event, "style", None)  # None in PyYAML's own parser, "" in libyaml's
    if plain and text == "<<":
        raise DocumentError("merge keys (<<) are not read: write the entries out", line)
    return _Token("scalar", line, None if plain and text in _NULLS else _no_nul(text, line))


def _no_nul(text: str, line: int) -> str:
    if "\0" in text:
        raise DocumentError("an escaped NUL character stands here", line)
    return text


_ALIAS = "aliases are not read: a value that starts with * must be quoted: '*.flora.ai'"
_BACKSLASH = "in double quotes \\ is special: use single quotes, or write \\\\"
_PERCENT = "a line that starts with % must be quoted"
_DEEP = f"this is nested more than {MAX_DEPTH} levels deep"
_TAG = "a value that starts with ! must be quoted"
_INDENTED = "this does not fit what stands above: check the indentation"
_EXPLAINED = (  # the message of libyaml or PyYAML -> what a person can act on
    ("scanning an alias", _ALIAS),
    ("scanning an anchor", "a value that starts with & must be quoted"),
    ("scanning a tag", _TAG),
    ("parsing a tag", _TAG),
    ("scanning a directive", _PERCENT),
    ("unknown escape character", _BACKSLASH),
    ("hexadecimal", _BACKSLASH),
    ("Unicode character escape", _BACKSLASH),
    ("quoted scalar", "this quote is not closed"),
    ("scanning a block scalar", "the text after | or > is not indented as YAML wants it"),
    ("mapping values are not allowed", "a ':' with a space after it stands inside a value: quote the value"),
    ("could not find expected ':'", "this line has no ':' after its key, or is indented wrongly"),
    ("flow sequence", "a '[' is not closed with ']', or a ',' is missing"),
    ("flow mapping", "a '{' is not closed with '}', or a ',' is missing"),
    ("flow node", "a '[' or '{' is not closed, or a ',' is missing"),
    ("block collection", "this does not fit the list above: check the indentation and the '-'"),
    ("block sequence entries are not allowed", "a '-' stands where no list can begin: start a new line"),
    ("block mapping", "this does not fit the entries above: check the indentation and the quotes"),
    ("block end", _INDENTED),
    ("expected <document start>", f"{_INDENTED} and the quotes"),
    ("maximum nesting depth", _DEEP),
    ("cannot start any token", "a value that starts with @, ` or % must be quoted"),
)


def _explained(error: yaml.MarkedYAMLError, text: str) -> DocumentError:
    mark = error.problem_mark or error.context_mark
    line = None if mark is None else mark.line + 1
    source = dict(enumerate(text.splitlines(), 1)).get(line or 0, "")
    indent = source[: len(source) - len(source.lstrip())]
    if "\t" in indent:
        return DocumentError("a tab indents this line: YAML takes spaces only", line)
    original = f"{error.problem} {error.context}"
    message = next((explained for part, explained in _EXPLAINED if part in original), None)
    return DocumentError(message or f"this is not valid YAML: {error.problem}", line)


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the one of `known` that is most like `word`, at least `cutoff` (0 to 1); None for none."""
    if len(word) > _LONGEST:
        return None
    import difflib  # noqa: PLC0415 - for who made a mistake

    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=cutoff)), None)
