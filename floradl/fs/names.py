"""Any text -> one path component that Linux, macOS, Windows and SMB all take.

Text from the API or a job file is hostile until it went through `safe_name`, and a path from a sidecar until
`stored_path` looked at it. Distinct texts give distinct names: one that had to be changed carries a hash of
what it was. Names that differ for Linux may still be one to macOS, Windows or SMB (case), see `fold`.

Sources: Microsoft, "Naming Files, Paths, and Namespaces"; Apple's APFS reference (names are compared
normalised, unassigned characters are refused); Unicode UAX 15 (NFC), UAX 29 (where a text may be cut).
"""

from __future__ import annotations

import re
import unicodedata
from typing import NewType

SafeName = NewType("SafeName", str)

PART_RESERVE = 24
"""Bytes that `part_name` adds to a stem; also room for the extension that takes its place later."""

MIN_BYTES = 32
"""The shortest limit that `safe_name` can keep."""

_FORBIDDEN = frozenset('<>:"/\\|?*')
# Control, format (bidi overrides, zero width), lone surrogates, private use (macOS's SMB client maps it to
# forbidden characters), unassigned (APFS refuses them), line and paragraph separators.
_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Windows looks at what stands before the first dot, superscript digits count.
_DEVICE = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|clock\$|(?:com|lpt)[0-9¹²³]) *(?:\..*)?", re.IGNORECASE
)
_MARKED = re.compile(r"~[0-9a-f]{8}(?:\.|$)")
_EXTENSION = re.compile(r"(?<=.)\.[A-Za-z0-9]{1,8}\Z", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9_]+(?:[ .-]+[A-Za-z0-9_]+)*")  # most names: fine as they are
_TAG = re.compile(r"[0-9a-f]{8}-[0-9a-fw][0-9a-f]{7}")


def safe_name(text: str, max_bytes: int) -> SafeName:
    """Make one path component of at most `max_bytes` bytes of UTF-8 out of any text.

    Plain names come through unchanged. Where anything had to be replaced or cut, `~` and 8 hex digits (of
    the SHA-256 of `text`) stand before the extension, so that distinct texts stay distinct. A text that
    already looks so marked is marked again, hence none can pass for another's result. Raises `ValueError`
    if `max_bytes` is below `MIN_BYTES`.
    """
    if max_bytes < MIN_BYTES:
        raise ValueError(f"a name needs room for {MIN_BYTES} bytes at least, not {max_bytes}")
    name = clean(text)
    if name != text or len(name.encode()) > max_bytes or _MARKED.search(name):
        return _marked(name, text, max_bytes)
    return SafeName(name)


def join_names(text: str, max_bytes: int) -> SafeName:
    """Make one component of `text` that was put together from safe names: their marks count as they are.

    Together they may still be a device of Windows', not normalised, or too long: then as `safe_name`.
    """
    name = clean(text)
    if name != text or len(name.encode()) > max_bytes:
        return _marked(name, text, max_bytes)
    return SafeName(name)


def _marked(name: str, text: str, max_bytes: int) -> SafeName:
    found = _EXTENSION.search(name)
    stem, extension = (name[: found.start()], found[0]) if found else (name, "")
    from hashlib import sha256  # noqa: PLC0415 - hardly a name needs it, and it brings OpenSSL along

    digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    mark = f"~{digest}{extension}"
    return SafeName(_cut(stem, max_bytes - len(mark)) + mark)


def clean(text: str) -> str:
    """Replace by `_` whatever some system refuses in a component; the length is not looked at.

    Not only refused but unkind, and replaced too, are: a leading `-` (an option to most programs) and a
    leading `.` (hidden).
    """
    if _PLAIN.fullmatch(text) and not _DEVICE.fullmatch(text):
        return text
    name = "".join("_" if _refused(char) else char for char in unicodedata.normalize("NFC", text))
    body = name.lstrip(".- ")
    name = "_" * (len(name) - len(body)) + body
    body = name.rstrip(". ")
    name = body + "_" * (len(name) - len(body))
    return f"_{name}" if not name or _DEVICE.fullmatch(name) else name


def _refused(char: str) -> bool:
    return char in _FORBIDDEN or unicodedata.category(char) in _CATEGORIES


def _cut(text: str, max_bytes: int) -> str:
    """Cut to `max_bytes` bytes of UTF-8, not inside a character, nor between one and what modifies it."""
    head = text.encode()[:max_bytes].decode(errors="ignore")
    end = len(head)
    while 0 < end < len(text) and _extends(text[end]):
        end -= 1
    # All of it one cluster: cut it between code points rather than lose the name.
    return (text[:end] if end else head).rstrip(". ") or "_"


def _extends(char: str) -> bool:
    return unicodedata.category(char) in {"Mn", "Mc", "Me"} or "\U0001f3fb" <= char <= "\U0001f3ff"


def fold(name: str) -> str:
    """Return what a case-insensitive, normalising file system compares: equal results, one file there.

    Somewhat coarser than any one system (`ß` equals `ss`), which is the safe side.
    """
    if name.isascii():
        return name.lower()
    decomposed = unicodedata.normalize("NFD", name)
    return unicodedata.normalize("NFD", decomposed.upper().casefold())


def part_name(stem: SafeName, tag: str) -> SafeName:
    """Name the hidden file that becomes `stem` plus an extension.

    `tag` (8 hex, `-`, 8 hex of which the first may be a `w`) differs for runs and outputs that share a stem;
    `ValueError` otherwise. What `Template.render` gives without an extension leaves room for this.
    """
    if not _TAG.fullmatch(tag):
        raise ValueError(f"a part file's tag is 8 hex digits, '-', 8 hex digits (or w and 7), not {tag!a}")
    return SafeName(f".{stem}.{tag}.part")


def stored_path(path: str) -> tuple[SafeName, ...]:
    """Split a path that a sidecar names, relative to the library and with `/`, into its components.

    They are taken as they stand (another version may have made other names), as long as they stay inside:
    `ValueError` for an empty path or component, an absolute path, `.`, `..`, a backslash or NUL.
    """
    parts = path.split("/")
    if not all(parts) or {".", ".."} & {*parts} or "\\" in path or "\0" in path:
        raise ValueError(f"the path {path[:200]!a} does not stay inside the library")
    return tuple(SafeName(part) for part in parts)
