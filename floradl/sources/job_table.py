"""Tables as jobs: what a spreadsheet saves as CSV -> `RunRequest`s, a run a row.

The first line is the heading. Columns are told apart by comma, semicolon or tab, and a text that has one in
it stands in quotes. A column that is not one of ours is the user's own, and goes into `meta`.

Source: RFC 4180 (CSV).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

from floradl.errors import JobError
from floradl.models import RunRequest, visible
from floradl.sources.job_document import (
    MAX_META,
    TWO_TECHNIQUES,
    Fault,
    FieldError,
    meta_name,
    reference_of,
    request_of,
    technique_of,
)

_RUN: Final = ("runid", "run", "reference", "url")  # the headings of a run, the surest first
_OWN: Final = ("technique", "label", "kinds")
_URL, _ID = "poll_url", "technique_id"  # of FLORA's own: they name the technique where no column does
_MOST_COLUMNS: Final = 1000  # with a heading or before one: what is read of each row has a bound
_GAPS: Final = re.compile(r"[\s_-]+")
_NEWLINE: Final = re.compile(r"\r\n|\r|\n")
# Blank lines, comments, and what tells Excel the delimiter.
_ABOVE: Final = re.compile(r"(?:[ \t]*+(?:#[^\r\n]*+|sep=[^\r\n])?(?:\r\n|\r|\n))*+", re.IGNORECASE)
_SPLIT: Final = re.compile(r"[,;\t]")
_LINE: Final = re.compile(r"[^\r\n]{0,100000}")


class TableStart(NamedTuple):
    """Where a table begins in its text, and what stands between its columns."""

    offset: int
    delimiter: str


def find_table(text: str) -> TableStart | None:
    """Return where the table begins; None where the first line that says anything is not its heading."""
    above = _ABOVE.match(text)
    offset = above.end() if above else 0
    first = _LINE.match(text, offset)
    line = visible(first.group()) if first else ""
    if line.startswith(("{", "[")):  # JSON, where such a word may stand between two commas, too
        return None
    if not any(_plain(cell.strip('"')) in _RUN for cell in _SPLIT.split(line)):
        return None
    import csv  # noqa: PLC0415 - for tables alone

    best, most = None, 0
    for delimiter in ",;\t":
        cells = next(csv.reader([line], delimiter=delimiter), [])
        if len(cells) > most and any(_plain(cell) in _RUN for cell in cells):
            best, most = TableStart(offset, delimiter), len(cells)
    return best


def read_table(text: str, start: TableStart) -> Iterator[tuple[RunRequest, Fault]]:
    """Read a table; each run comes with what reports it. Raises `JobError` with row and column.

    Rows without any text, and those that begin with `#`, are left out, but counted.
    """
    import csv  # noqa: PLC0415 - as above

    line = 1 + len(_NEWLINE.findall(text, 0, start.offset))
    above, row, empty = line, 0, True
    reader = csv.reader(io.StringIO(text[start.offset :], newline=""), delimiter=start.delimiter, strict=True)
    try:
        heading = _Heading(next(reader))
        line = above + reader.line_num
        for row, cells in enumerate(reader, 1):
            if (request := heading.request(cells)) is not None:
                empty = False
                yield request, partial(_fault, line, row, None)
            line = above + reader.line_num
    except _CellError as error:
        raise _fault(line, row or None, error.column, str(error)) from error
    except csv.Error as error:
        long = "field limit" in str(error)
        why = "a text in it has over 131,072 characters" if long else str(error)
        hint = " If not, shorten that text" if long else ""
        message = f"this row cannot be read ({why}): is a quote in it not closed, or not doubled?{hint}"
        raise _fault(line, row + 1 if line > above else None, None, message) from error
    if empty:
        raise JobError("this table has a heading, and no row below it that names a run")


def _fault(line: int, row: int | None, column: str | None, message: str) -> JobError:
    return JobError(message, line=line, row=row, column=column)


def _plain(heading: str) -> str:
    return _GAPS.sub("", heading.casefold())


class _CellError(ValueError):
    """A cell is wrong; `column` is its heading, None where it is the row."""

    def __init__(self, message: str, column: str | None = None) -> None:
        super().__init__(message)
        self.column = column


class _Heading:
    """What each column is. Raises `_CellError` where that cannot be told."""

    def __init__(self, cells: Sequence[str]) -> None:
        names = [visible(cell).strip() for cell in cells]
        while names and not names[-1]:
            names.pop()
        if len(names) > _MOST_COLUMNS:
            raise _CellError(f"this table has {len(names):,} columns: remove some")
        known = [name.casefold() for name in names]
        plain = [_plain(name) for name in names]
        self._names = names
        self._run = plain.index(next(name for name in _RUN if name in plain))
        self._at = {name: known.index(name) for name in (*_OWN, _URL, _ID) if name in known}
        own = {self._run, *(self._at[name] for name in _OWN if name in self._at)}
        self._meta = [(n, name) for n, name in enumerate(names) if name and n not in own]
        self._nameless = [n for n, name in enumerate(names) if not name]
        if len(self._meta) > MAX_META:
            raise _CellError(
                f"this table has {len(self._meta):,} columns beside the run, technique, label and kinds, and "
                f"a run keeps {MAX_META}: remove some"
            )
        for n, name in enumerate(names):
            if n != self._run and plain[n] == plain[self._run]:
                message = f"two columns have the run, this one and {names[self._run]!r}: remove one"
                raise _CellError(message, name)
            if name and known.index(known[n]) < n:
                raise _CellError("two columns have this heading: give one another", name)
        for _, name in self._meta:
            try:
                meta_name(name)
            except ValueError as error:
                raise _CellError(str(error), name) from error

    def request(self, cells: list[str]) -> RunRequest | None:
        """Read a row; None where nothing stands in it. Raises `_CellError`."""
        width = len(self._names)
        run = cells[self._run].strip() if self._run < len(cells) else ""
        if not run and not any(map(str.strip, cells)):
            return None
        if cells[0].lstrip().startswith("#"):
            return None
        if len(cells) < width:
            cells += [""] * (width - len(cells))
        elif len(cells) > width and any(map(str.strip, cells[width:])):
            raise _CellError("this row has more cells than the heading: does a text in it need quotes?")
        if any(cells[n].strip() for n in self._nameless):
            raise _CellError(
                "a cell of this row stands in a column without a heading: write one, or clear it"
            )
        if not run:
            raise _CellError("here is no run: write its id, or remove the row", self._names[self._run])
        meta = {name: cells[n] for n, name in self._meta}
        technique, label, kinds = (cells[self._at[name]].strip() if name in self._at else "" for name in _OWN)
        try:
            if not technique and (_URL in self._at or _ID in self._at):
                technique = self._floras(run, cells)
            return request_of(run, technique, label, "", kinds, meta)
        except FieldError as error:
            message = str(error)
            if message == TWO_TECHNIQUES:
                run, of = self._names[self._run], self._names[self._at["technique"]]
                message = f"column {run} names another technique than column {of} does: keep one"
            raise _CellError(message, self._column(error.field)) from error

    def _floras(self, run: str, cells: Sequence[str]) -> str:
        """Return the technique that columns of FLORA's own name, as far as they are right."""
        url, name = (cells[self._at[each]].strip() if each in self._at else None for each in (_URL, _ID))
        try:
            reference = reference_of(run)
        except ValueError:
            return ""  # reported where the run itself is read
        return reference.technique or technique_of(reference.run_id, (url,), (name,)) or ""

    def _column(self, field: Sequence[str]) -> str | None:
        if field[0] == "run":
            return self._names[self._run]
        if field[0] in self._at:
            return self._names[self._at[field[0]]]
        return field[1] if len(field) > 1 else None
