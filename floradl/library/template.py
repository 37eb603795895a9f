"""`output.template` -> the path of a file in the library.

Parsed with the configuration, so that errors show then; rendered for each output. The value of a field never
adds a path separator, whatever the API or a job said.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from functools import lru_cache
from string import Formatter
from urllib.parse import unquote

from msgspec import Struct

from floradl.fs.names import PART_RESERVE, SafeName, clean, fold, join_names, safe_name
from floradl.models import RunNames
from floradl.urls import is_only_url, strip_query
from floradl.yaml_reader import nearest

UNKNOWN = "_unknown"
"""In place of an unknown technique or date."""

SIDECARS = "runs"
"""The folder of the library that holds the sidecars: no output goes there."""

_DATES = {"date": "%Y-%m-%d", "year": "%Y", "month": "%m", "day": "%d", "created": "%Y-%m-%d"}
_NAMES = {
    "project_id": "project_id",
    "workspace": "workspace_id",
    "technique_id": "technique_id",
    "technique_name": "technique_name",
    "model": "model_id",
}
_META = "meta."
_OUTPUTS = ("folder", "kind", "type", "technique", "run_id", "output_id", "index", "label")
_FIELDS = (*_OUTPUTS, *_DATES, *_NAMES, "project", "stem", "meta.KEY", "ext")
_SANE_EXTENSION = re.compile(r"\.[a-z0-9]{1,8}")
_WIDTH = re.compile(r"0?([1-9])d?")
_DIRECTIVE = re.compile(r"%(.?)", re.DOTALL)
_DIRECTIVES = frozenset("YmdHMSyjbBaAVGuUWIp")
_FORMATTED = ("date", "created")
_SOME_DAY = dt.datetime(2026, 11, 23, 19, 3, 11)  # noqa: DTZ001 - only to see what a format writes
_BETWEEN = " -_."
_UNCUT = 1 << 40
_REMEMBERED = 256  # texts: outputs that follow one another share most of theirs


@lru_cache(_REMEMBERED)
def _safe(text: str) -> str:
    return safe_name(text, _UNCUT)


_folder_name = lru_cache(_REMEMBERED)(join_names)


class NameFields(Struct, frozen=True, kw_only=True):
    """The values of the template fields for one output.

    `folder` is the user's, and may hold `/`; other texts may be hostile. `index` counts from 1.
    `date` and `created` are when the run completed and was created, in the local time zone, None where
    unknown. `url` is the output's; its query is never used.
    """

    folder: str
    kind: str
    type: str
    technique: str | None
    run_id: str
    output_id: str
    index: int
    label: str | None = None
    date: dt.date | None = None
    created: dt.date | None = None
    names: RunNames = RunNames()
    meta: dict[str, str] = {}
    url: str = ""


class Alternative(Struct, frozen=True):
    """A field, and how it is written: a date's format, the index's width. Without a field `text` itself."""

    field: str | None
    text: str = ""

    def render(self, fields: NameFields) -> str:
        """Return safe text; only the user's `folder` may hold `/`. Empty where the value is not known."""
        field = self.field
        if field is None:
            return self.text
        if field in _DATES:
            day = fields.created if field == "created" else fields.date
            return day.strftime(self.text or _DATES[field]) if day else ""
        if field == "index":
            return f"{fields.index:0{self.text or 1}}"
        value = _value(field, fields)
        if not value:
            return ""
        if field == "folder":
            return "/".join(_safe(part) for part in value.split("/") if part)
        return _safe(value)

    @property
    def absent(self) -> str:
        """What stands where nothing is known."""
        return UNKNOWN if self.field == "technique" or self.field in _DATES else ""


class Piece(Struct, frozen=True):
    """Literal text, or the first of `alternatives` that is known."""

    literal: str
    alternatives: tuple[Alternative, ...] = ()

    def render(self, fields: NameFields) -> str:
        """Return safe text, see `Alternative.render`."""
        if not self.alternatives:
            return self.literal
        for alternative in self.alternatives:
            text = alternative.render(fields)
            if text:
                return text
        return self.alternatives[-1].absent


def _value(field: str, fields: NameFields) -> str | None:
    if field in _NAMES:
        return getattr(fields.names, _NAMES[field])  # type: ignore[no-any-return]
    if field == "project":
        return fields.names.project_name or fields.names.project_id
    if field == "stem":
        return stem_of(fields.url)
    if field.startswith(_META):
        return fields.meta.get(field.removeprefix(_META))
    return getattr(fields, field)  # type: ignore[no-any-return]


def stem_of(url: str) -> str:
    """Return the name of the file that a URL names, without its extension; empty where it names none."""
    if not is_only_url(url):
        return ""
    _, _, path = strip_query(url.strip()).partition("://")
    name = unquote(path.partition("/")[2].rpartition("/")[2])
    stem, dot, extension = name.rpartition(".")
    return stem if dot and stem and _SANE_EXTENSION.fullmatch(f".{extension.lower()}") else name


class Template(Struct, frozen=True):
    """A parsed `output.template`: for each component of the path its pieces, the extension left out."""

    components: tuple[tuple[Piece, ...], ...]

    def names(self, *fields: str) -> bool:
        """Whether one of `fields` stands in it."""
        return any(
            alternative.field in fields
            for pieces in self.components
            for piece in pieces
            for alternative in piece.alternatives
        )

    def always_names(self, *fields: str) -> bool:
        """Whether one of `fields` is in each path: it is no alternative to another that may be there."""
        pieces = (piece for pieces in self.components for piece in pieces)
        return any(piece.alternatives and piece.alternatives[0].field in fields for piece in pieces)

    def meta_keys(self) -> tuple[str, ...]:
        """Return the keys of `meta` in it, each once."""
        fields = (
            alternative.field or ""
            for pieces in self.components
            for piece in pieces
            for alternative in piece.alternatives
        )
        return tuple(dict.fromkeys(name.removeprefix(_META) for name in fields if name.startswith(_META)))

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read a template: text, `/`, and fields in braces.

        `{{` and `}}` are literal braces, `{index:03}` pads with zeros, `{created:%Y-%m}` formats a date, and
        `{label|technique|'none'}` takes the first that is known. `{ext}` can only be at the end, and is added
        there if missing. Raises `ValueError` whose message says what would be right.
        """
        components: list[list[Piece]] = [[]]
        for piece in _pieces(text):
            if piece.alternatives:
                components[-1].append(piece)
                continue
            first, *more = piece.literal.split("/")
            components[-1].append(Piece(first))
            components.extend([Piece(part)] for part in more)
        kept = tuple(tuple(piece for piece in pieces if piece != Piece("")) for pieces in components)
        for pieces in kept:
            _check(pieces, text)
        if len(kept) > 1 and len(kept[0]) == 1 and _holds_sidecars(kept[0][0].literal):
            raise ValueError(f"the folder '{SIDECARS}' is kept for the sidecars: choose another name")
        return cls(kept)

    def fill(self, fields: NameFields, max_bytes: int) -> FilledTemplate:
        """Put the values in. An empty folder (no label) is left out; an empty name becomes the run id."""
        *folders, stem = "/".join([_join(pieces, fields) for pieces in self.components]).split("/")
        names = [_folder_name(folder, max_bytes) for folder in folders if folder]
        if names and _holds_sidecars(names[0]):
            names[0] = SafeName(f"_{names[0]}")
        return FilledTemplate((*names,), stem or safe_name(fields.run_id, _UNCUT), max_bytes)

    def render(
        self, fields: NameFields, extension: str, max_bytes: int, distinct: int = 1
    ) -> tuple[SafeName, ...]:
        """Return the components of a path below the library, see `fill` and `FilledTemplate.path`."""
        return self.fill(fields, max_bytes).path(extension, distinct)


class FilledTemplate(Struct, frozen=True):
    """The folders of an output, and the stem of its file's name, which may have `max_bytes` in all."""

    folders: tuple[SafeName, ...]
    stem: str
    max_bytes: int

    def path(self, extension: str, distinct: int = 1) -> tuple[SafeName, ...]:
        """Return the components of a path below the library: folders, then the file's name.

        `extension` is `.png` or the like, or empty for the stem alone; anything else becomes `.bin`. The
        stem leaves `PART_RESERVE` of the bytes free, whatever the extension. `distinct` from 2 on appends
        `-2`: the next candidate where a name is taken.
        """
        count = f"-{distinct}" if distinct > 1 else ""
        stem = join_names(self.stem, self.max_bytes - PART_RESERVE - len(count))
        if extension and not _SANE_EXTENSION.fullmatch(extension):
            extension = ".bin"
        return (*self.folders, SafeName(f"{stem}{count}{extension}"))


def _join(pieces: tuple[Piece, ...], fields: NameFields) -> str:
    texts = [piece.render(fields) for piece in pieces]
    if all(texts):
        return "".join(texts)
    joined = ""
    for text, before in zip(texts, ["", *texts], strict=False):
        # Without a label "{date}-{label}-{run_id}" has one "-", and "{label}-{run_id}" none.
        twice = not before and text[:1] and text[0] in _BETWEEN and joined.endswith(text[0])
        joined += text[1:] if twice else text
    return joined.strip(" -.")


def _pieces(text: str) -> list[Piece]:
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"the braces do not match ({error}): a brace that is meant is doubled") from None
    pieces = []
    for position, (literal, name, spec, conversion) in enumerate(parsed, 1):
        pieces.append(Piece(unicodedata.normalize("NFC", literal)))
        if name == "ext" and not spec and not conversion:
            if position < len(parsed):
                raise ValueError("{ext} can only stand at the very end: it brings its own dot")
        elif name is not None:
            convert = f"!{conversion}" if conversion else ""
            pieces += _field(name + convert + (f":{spec}" if spec else ""))
    return pieces


def _field(content: str) -> list[Piece]:
    """Read what stands between braces: alternatives; a date's format may hold `/`, which begins a folder."""
    alternatives = [_alternative(each.strip()) for each in _split(content)]
    if len(alternatives) > 1:
        if any("/" in alternative.text for alternative in alternatives):
            raise ValueError(f"{{{content[:60]}}}: '/' cannot stand among alternatives")
        return [Piece("", tuple(alternatives))]
    (alternative,) = alternatives
    pieces = [Piece("", (Alternative(alternative.field, part),)) for part in alternative.text.split("/")]
    return [each for piece in pieces for each in (Piece("/"), piece)][1:]


def _split(content: str) -> list[str]:
    """Split at each `|` that is not in quotes; a quote counts where nothing but blanks is before it."""
    parts, begin, quote, blank = [], 0, "", True
    for place, char in enumerate(content):
        if quote:
            quote = "" if char == quote else quote
        elif char == "|":
            parts.append(content[begin:place])
            begin, blank = place + 1, True
        elif blank:
            quote = char if char in "'\"" else ""
            blank = char.isspace()
    return [*parts, content[begin:]]


def _alternative(text: str) -> Alternative:
    """Read one alternative: `'text'`, `field`, `date:FORMAT`, `index:WIDTH`."""
    if len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]:
        literal = unicodedata.normalize("NFC", text[1:-1])
        _check_written(literal)
        return Alternative(None, literal)
    name, _, form = text.partition(":")
    name, bang, _ = name.partition("!")
    is_meta = name.startswith(_META) and name not in {_META, "meta.KEY"}
    if not is_meta and (name not in _FIELDS or name in {"ext", "meta.KEY"}):
        raise ValueError(_unknown_field(name))
    if form and not bang and name in _FORMATTED:
        return Alternative(name, _date_format(form))
    width = _WIDTH.fullmatch(form)
    if bang or (form and (name != "index" or not width)):
        raise ValueError(
            f"{{{name}}} takes no format like that; only the index does, as in {{index:03}}, and dates do, "
            "as in {created:%Y-%m}"
        )
    return Alternative(name, width[1] if width else "")


def _unknown_field(name: str) -> str:
    if name == "ext":
        return "{ext} can only stand alone, at the very end: it brings its own dot"
    if name in {"meta", _META, "meta.KEY"}:
        return f"{{{name}}} is not a field: write which one is meant, {{meta.shot}} for what a job calls shot"
    near = nearest(name, _FIELDS, cutoff=0.5)
    hint = f"did you mean {{{near}}}?" if near else f"the fields are {' '.join(_FIELDS)}"
    return f"{{{name[:60]}}} is not a field: {hint}"


def _date_format(text: str) -> str:
    if "%" not in text:
        raise ValueError(f"{text[:60]!a} is not the format of a date: write one like {{created:%Y-%m}}")
    for directive in _DIRECTIVE.findall(text):
        if directive not in _DIRECTIVES:
            raise ValueError(
                f"{f'%{directive}'!a} is not a part of a date: write %Y %m %d, %H %M %S, %b, %V or the like, "
                "as in {created:%Y-%m}"
            )
    for part in text.split("/"):
        written = _SOME_DAY.strftime(part)
        if not written:
            raise ValueError("a folder's name in a date's format is empty: {created:%Y/%m} makes two folders")
        _check_written(written)
    return text


def _check_written(text: str) -> None:
    """Refuse text that would be written differently on disk."""
    for char in text:
        if char == "\\":
            raise ValueError("write '/' between folders, not '\\'")
        if clean(f"a{char}a") != f"a{char}a":
            raise ValueError(f"{char!a} cannot be in a name on every system: leave it out")


def _check(pieces: tuple[Piece, ...], text: str) -> None:
    """Refuse a component that would be written differently on disk."""
    if not pieces:
        where = (
            "it starts with '/'" if text.startswith("/") else "a name between two '/', or the last, is empty"
        )
        raise ValueError(f"{where}: a template is a path relative to output.dir, and ends in a file's name")
    literals = [piece.literal for piece in pieces if not piece.alternatives]
    if ".." in literals or "~" in literals:
        raise ValueError("'..' and '~' lead out of the library: a template is relative to output.dir")
    for literal in literals:
        _check_written(literal)
    # "x" for the value of a field
    written = "".join("x" if piece.alternatives else piece.literal for piece in pieces)
    if clean(written) != written:
        raise ValueError(
            f"{written!r} is no name that every system takes and shows: it must not start with '.', '-' or a "
            "space, not end with '.' or a space, nor be a device of Windows'"
        )


def _holds_sidecars(name: str) -> bool:
    return fold(name) == fold(SIDECARS)
