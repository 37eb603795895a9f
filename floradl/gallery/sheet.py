"""A contact sheet: the gallery's tiles as one HTML file that needs nothing else, and runs nothing."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from html import escape
from itertools import groupby
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote

from floradl.index.views import ShownOutput

_HEAD: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif; }}
body {{ margin: 1.5rem; }}
h1 {{ font-size: 1.3rem; }}
h2 {{ font-size: 1rem; margin: 2rem 0 .5rem; }}
ul {{ display: flex; flex-wrap: wrap; gap: 12px; list-style: none; margin: 0; padding: 0; }}
li {{ max-width: 100%; }}
a {{ color: inherit; text-decoration: none; display: block; }}
a:focus-visible {{ outline: 3px solid Highlight; outline-offset: 2px; }}
img {{ display: block; height: 200px; max-width: 100%; object-fit: contain; background: #8882; }}
.words {{ height: 184px; width: 260px; overflow: hidden; padding: 8px; background: #8882;
  white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; }}
.under {{ display: block; width: 0; min-width: 100%; overflow-wrap: anywhere; font-size: 12px;
  unicode-bidi: isolate; }}
</style>
</head>
<body>
<h1>{title}</h1>
"""


def render(
    title: str, root: str, outputs: Iterable[ShownOutput], thumbnail: Callable[[ShownOutput], bytes]
) -> Iterator[str]:
    """Yield the parts of the file; `outputs` come by day.

    `root` is the path or URL of the library, whose files the tiles lead to; `thumbnail` returns a WebP, or
    nothing.
    """
    yield _HEAD.format(title=escape(title))
    for day, shown in groupby(outputs, key=lambda output: _day(output.completed_at)):
        yield f"<h2>{escape(day)}</h2>\n<ul>\n"
        for output in shown:
            yield _tile(output, _link(root, output.path), thumbnail(output))
        yield "</ul>\n"
    yield "</body>\n</html>\n"


def _link(root: str, path: str) -> str:
    if root.startswith("/"):
        return PurePosixPath(root, path).as_uri()
    return f"{root}/{quote(path)}"  # s3://…: what opens it is the reader's to know


def _day(completed_at: str | None) -> str:
    try:
        moment = dt.datetime.fromisoformat(completed_at or "").astimezone()
    except (ValueError, OverflowError):
        return "Day unknown"
    return f"{moment:%A}, {moment.day} {moment:%B %Y}"


def _tile(output: ShownOutput, url: str, thumbnail: bytes) -> str:
    technique = output.technique_name or output.technique or "technique unknown"
    named = f"{technique}, {output.run_id}"
    if thumbnail:
        data = base64.b64encode(thumbnail).decode()
        size = f' width="{output.width}" height="{output.height}"' if output.width and output.height else ""
        shape = size and f' style="width:auto;aspect-ratio:{output.width}/{output.height}"'
        shown = f'<img alt="{escape(named)}"{size}{shape} src="data:image/webp;base64,{data}">'
    else:
        shown = f'<div class="words">{escape(output.text or output.path.rpartition("/")[2])}</div>'
    label = f"{escape(output.label)}<br>" if output.label else ""
    under = f'<span class="under">{label}{escape(technique)}<br>{escape(output.run_id)}</span>'
    return f'<li><a href="{escape(url)}">{shown}{under}</a></li>\n'
