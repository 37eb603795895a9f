"""`output.template` -> where in the library a file goes.

Parsed once, when the configuration is read, so that a typing error is found then; rendered for each output.
A field's value never adds a path separator, whatever the API sent.
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
"""Stands for a technique, or a date, that is not known."""

SIDECARS = "runs"
"""The folder of the library that holds the sidecars: no output goes there."""

_DATES = {"date": "%Y-%m-%d", "year": "%Y", "month": "%m", "day": "%d"}
_FIELDS = ("folder", "kind", "type", "technique", "run_id", "output_id", "index", "label", *_DATES, "ext")
_SANE_EXTENSION = re.compile(r"\.[a-z0-9]{1,8}")
_WIDTH = re.compile(r"0?([1-9])d?")
_UNCUT = 1 << 40


class NameFields(Struct, frozen=True, kw_only=True):
    """What a template may name about one output.

    `folder` is the user's, and may hold `/`; texts of the others may be hostile. `index` counts from 1.
    `date` is the day of completion in the local time zone, `None` where it is not known.
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
        """Return safe text; only the user's `folder` may hold `/`. Empty where there is no label."""
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

        `{{` and `}}` stand for braces, `{index:03}` pads with zeros. `{ext}` stands at the very end, and is
        meant there if it is missing. Raises `ValueError` with a message that says what would be right.
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
        """Make the components of a path below the library: folders, then the file's name.

        `extension` is `.png` or the like, or empty for the stem alone; anything else becomes `.bin`. The
        stem leaves `PART_RESERVE` of `max_bytes` free, whatever the extension. `distinct` from 2 on appends
        `-2`: the next candidate where a name is taken. A folder that comes out empty (no label) falls away;
        a file's name that does is the run id.
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
    # What joined an absent label to the rest would dangle: "{label}-{run_id}" is then the run id alone.
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
    """Refuse what would come out other than it was written; `pieces` are one component."""
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
    # "x" stands for what a field brings.
    written = "".join(piece.literal if piece.field is None else "x" for piece in pieces)
    if clean(written) != written:
        raise ValueError(
            f"{written!r} is no name that every system takes and shows: it must not start with '.', '-' or a "
            "space, not end with '.' or a space, nor be a device of Windows'"
        )


def _holds_sidecars(name: str) -> bool:
    return fold(name) == fold(SIDECARS)
