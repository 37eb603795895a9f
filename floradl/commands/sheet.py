"""`floradl sheet`: the tiles of the last days as one HTML file, to keep or to send."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final

from floradl.commands.exits import Exit
from floradl.commands.gallery import needing_web
from floradl.commands.library_index import index_place
from floradl.commands.options import moment
from floradl.commands.streams import tell
from floradl.config.settings import Config
from floradl.errors import ConfigError
from floradl.gallery.sheet import render
from floradl.gallery.thumbnails import THUMBNAILS, Maker, ThumbnailCache, is_sha256, open_shown
from floradl.index.library_index import LibraryIndex
from floradl.index.views import ShownOutput, View
from floradl.library.base import LibraryStore
from floradl.library_builder import build_library
from floradl.units import format_count

_PAGE: Final = 500
_MOST: Final = 5000  # outputs: with more, a browser becomes slow


def sheet(config: Config, environ: Mapping[str, str], since: str, file: Path | None) -> Exit:
    """Write the outputs completed since `since` to `file`, or to one in this folder named by today's date.

    Raises `ConfigError`, and as the library where it is missing.
    """
    with needing_web("the sheet"):
        import PIL  # noqa: F401, PLC0415 - an extra
    now = time.time()
    begin = moment(since, now)
    place = index_place(config, environ)
    target = file or Path(f"floradl-sheet-{time.strftime('%Y-%m-%d', time.localtime(now))}.html")
    library = build_library(config)
    cache, maker = ThumbnailCache(place / THUMBNAILS, config.web.thumbnail_space), Maker(environ)
    count = 0

    def thumbnail(output: ShownOutput) -> bytes:
        nonlocal count
        count += 1
        return _thumbnail(output, library, cache, maker)

    with closing(LibraryIndex(place, library)) as index:
        index.rebuild()
        outputs = islice(_listed(index, View(since=begin)), _MOST)
        title = f"FLORA, since {time.strftime('%d %B %Y', time.localtime(begin))}"
        temporary = target.with_name(f".{target.name}.part")
        try:
            with temporary.open("w", encoding="utf-8", errors="replace") as stream:
                stream.writelines(render(title, library.location(), outputs, thumbnail))
            temporary.replace(target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
        finally:
            maker.end()
    left = "" if count < _MOST else f"; the newest {_MOST:,}, name a later --since for fewer"
    tell(f"{format_count(count, 'output')} in {target}{left}")
    return Exit.OK


def _listed(index: LibraryIndex, view: View) -> Iterator[ShownOutput]:
    cursor: str | None = None
    while True:
        page = index.views.page(view, _PAGE, cursor)
        yield from page.outputs
        if (cursor := page.cursor) is None:
            return


def _thumbnail(output: ShownOutput, library: LibraryStore, cache: ThumbnailCache, maker: Maker) -> bytes:
    if output.kind not in {"image", "video"} or not is_sha256(output.sha256):
        return b""
    made = cache.get(output.sha256)
    if made is None:
        file = open_shown(library, output.path, output.kind)
        if file is None:
            return b""
        with file:
            made = maker.make(file)
        if made is None:
            return b""
        cache.put(output.sha256, made)
    return made
