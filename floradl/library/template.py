"""`output.template` -> the path of a file in the library.

Parsed with the configuration, so that errors show then; rendered for each output. The value of a field never
adds a path separator, whatever the API sent.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from string import Formatter

from msgspec import Struct

from floradl.fs.names import PART_RESERVE, SafeName, clean, fold, join_names, safe_name
from floradl.yaml_reader import nearest

UNKNOWN = "_unknown"
"""In place of an unknown technique or date."""

SIDECARS = "runs"
"""The folder of the library that holds the sidecars: no output goes there."""

_DATES = {"date": "%Y-%m-%d", "year": "%Y", "month": "%m", "day": "%d"}
_FIELDS = ("folder", "kind", "type", "technique", "run_id", "output_id", "index", "label", *_DATES, "ext")
_SANE_EXTENSION = re.compile(r"\.[a-z0-9]{1,8}")
_WIDTH = re.compile(r"0?([1-9])d?")
_UNCUT = 1 << 40


class NameFields(Struct, frozen=True, kw_only=True):
    """The values of the template fields for one output.

    `folder` is the user's, and may hold `/`; other texts may be hostile. `index` counts from 1.
    `date` is the day of completion in the local time zone, None where unknown.
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


class Piece(Struct, frozen=True):
    """Literal text, or a field; `width` pads the index with zeros."""

    literal: str
    field: str | None = None
    width: int = 0

    def render(self, fields: NameFields) -> str:
        """Return safe text; only the user's `folder` may hold `/`. Empty without a label."""
        if self.field is None:
            return self.literal
        if self.field in _DATES:
            return fields.date.strftime(_DATES[self.field]) if fields.date else UNKNOWN
        if self.field == "index":
            return f"{fields.index:0{self.width or 1}}"
        value: str | None = getattr(fields, self.field)
        if not value:
            return UNKNOWN if self.field == "technique" else ""
        parts = value.split("/") if self.field == "folder" else [value]
        return "/".join(safe_name(part, _UNCUT) for part in parts if part)


class Template(Struct, frozen=True):
    """A parsed `output.template`: for each component of the path its pieces, the extension left out."""

    components: tuple[tuple[Piece, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read a template: text, `/`, and fields in braces.

        `{{` and `}}` are literal braces, `{index:03}` pads with zeros. `{ext}` can only be at the end, and is
        added there if missing. Raises `ValueError` whose message says what would be right.
        """
        components: list[list[Piece]] = [[]]
        for piece in _pieces(text):
            if piece.field is not None:
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

    def render(
        self, fields: NameFields, extension: str, max_bytes: int, distinct: int = 1
    ) -> tuple[SafeName, ...]:
        """Return the components of a path below the library: folders, then the file's name.

        `extension` is `.png` or the like, or empty for the stem alone; anything else becomes `.bin`. The
        stem leaves `PART_RESERVE` of `max_bytes` free, whatever the extension. `distinct` from 2 on appends
        `-2`: the next candidate where a name is taken. An empty folder (no label) is left out; an empty
        file name becomes the run id.
        """
        *folders, stem = "/".join(_join(pieces, fields) for pieces in self.components).split("/")
        names = [join_names(folder, max_bytes) for folder in folders if folder]
        if names and _holds_sidecars(names[0]):
            names[0] = SafeName(f"_{names[0]}")
        count = f"-{distinct}" if distinct > 1 else ""
        room = max_bytes - PART_RESERVE - len(count)
        stem = join_names(stem or safe_name(fields.run_id, _UNCUT), room)
        if extension and not _SANE_EXTENSION.fullmatch(extension):
            extension = ".bin"
        return (*names, SafeName(f"{stem}{count}{extension}"))


def _join(pieces: tuple[Piece, ...], fields: NameFields) -> str:
    texts = [piece.render(fields) for piece in pieces]
    joined = "".join(texts)
    # Without a label "{label}-{run_id}" is the run id alone, without the "-".
    return joined if all(texts) else joined.strip(" -.")


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
            pieces.append(_field(name, spec or "", conversion))
    return pieces


def _field(name: str, spec: str, conversion: str | None) -> Piece:
    if name not in _FIELDS:
        near = nearest(name, _FIELDS, cutoff=0.5)
        hint = f"did you mean {{{near}}}?" if near else f"the fields are {' '.join(_FIELDS)}"
        raise ValueError(f"{{{name[:60]}}} is not a field: {hint}")
    width = _WIDTH.fullmatch(spec)
    if conversion or (spec and (name != "index" or not width)):
        raise ValueError(f"{{{name}}} takes no format; only the index does, as in {{index:03}}")
    return Piece("", name, int(width[1]) if width else 0)


def _check(pieces: tuple[Piece, ...], text: str) -> None:
    """Refuse a component that would be written differently on disk."""
    if not pieces:
        where = (
            "it starts with '/'" if text.startswith("/") else "a name between two '/', or the last, is empty"
        )
        raise ValueError(f"{where}: a template is a path relative to output.dir, and ends in a file's name")
    literals = [piece.literal for piece in pieces if piece.field is None]
    if ".." in literals or "~" in literals:
        raise ValueError("'..' and '~' lead out of the library: a template is relative to output.dir")
    for literal in literals:
        if "\\" in literal:
            raise ValueError("write '/' between folders, not '\\'")
        for char in literal:
            if clean(f"a{char}a") != f"a{char}a":
                raise ValueError(f"{char!a} cannot be in a name on every system: leave it out")
    # "x" for the value of a field
    written = "".join(piece.literal if piece.field is None else "x" for piece in pieces)
    if clean(written) != written:
        raise ValueError(
            f"{written!r} is no name that every system takes and shows: it must not start with '.', '-' or a "
            "space, not end with '.' or a space, nor be a device of Windows'"
        )


def _holds_sidecars(name: str) -> bool:
    return fold(name) == fold(SIDECARS)
