"""XML (SVG and many more) and JSON (glTF, Lottie and many more): read to the end, to see all closed.

Sources: XML 1.0, 2.1; RFC 8259 (JSON), 2.
"""

from __future__ import annotations

import re
from xml.parsers import expat

from floradl.media.truncation.window import MOST_STEPS, Window

_LARGEST = 32 << 20
_DEEPEST = 10_000
_CUT = frozenset(
    {
        expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS],
        expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_TOKEN],
        expat.errors.codes[expat.errors.XML_ERROR_PARTIAL_CHAR],
        expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION],
    }
)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_NOT_JSON = re.compile(rb"[^\[\]{}:,0-9+\-.eEtrufalsnINiy\s]")
_SECOND = re.compile(rb"[\]}]\s*[\[{]")


class _BeyondError(Exception):
    """The document does what nobody is to be made to follow: entities of its own, endless depth."""


def xml(file: Window) -> bool | None:
    """Judge XML: whether all that was opened is closed. What is malformed otherwise cannot be told.

    Never True, as JSON is not: white space may follow the last element.
    """
    if file.size > _LARGEST:
        return None
    parser = expat.ParserCreate()
    depth = budget = 0

    def opened(_name: str, _attributes: object) -> None:
        nonlocal depth, budget
        depth += 1
        budget += 1
        if depth > _DEEPEST or budget > MOST_STEPS * 5:
            raise _BeyondError

    def closed(_name: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_: object) -> None:
        raise _BeyondError

    parser.StartElementHandler = opened
    parser.EndElementHandler = closed
    parser.EntityDeclHandler = refuse
    try:
        # Older ones of expat begin a token that is not yet whole anew with each block.
        for block in file.blocks(growing=True):
            parser.Parse(block, False)
    except (expat.ExpatError, _BeyondError, LookupError, ValueError):
        return None
    try:
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        return False if error.code in _CUT else None
    return None


def json(file: Window) -> bool | None:
    """Judge JSON whose root is an object or a list; lines of JSON, or comments, cannot be told."""
    if file.size > _LARGEST:
        return None
    if not file.size:
        return False
    depth, within, carry, last = 0, False, b"", b""
    for number, block in enumerate(file.blocks()):
        text = carry + block
        if not number:
            text = text.removeprefix(b"\xef\xbb\xbf").lstrip()
            if text and text[:1] not in {b"{", b"["}:
                return None
        # A backslash at the edge belongs to what follows, unless another has used it up. The quote closes a
        # string that is open at the edge; where none is, it is what remains.
        carry = b"\\" if (len(text) - len(text.rstrip(b"\\"))) % 2 else b""
        text = _STRING.sub(b" ", b'"' * within + text.removesuffix(carry) + b'"')
        within = not text.endswith(b'"')
        text = text.removesuffix(b'"')
        if _NOT_JSON.search(text) or _SECOND.search(last + text):
            return None
        depth += text.count(b"{") + text.count(b"[") - text.count(b"}") - text.count(b"]")
        last = (last + text).rstrip()[-1:]
    return False if depth > 0 else None
