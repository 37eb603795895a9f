"""What a download is: its extension, and whether it is what was asked for at all.

The content speaks first, where it is certain (`signatures`); then the content type; then the URL's path, and
the file name that the host suggests. An error page is found by what the host says and does: a type that is no
media type, a page where a signature is due; never by the first words of a document.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

import msgspec

from floradl.download.file_type.containers import holds_pictures, unzipped
from floradl.download.file_type.frames import hides_behind_tags
from floradl.download.file_type.signatures import from_content
from floradl.download.file_type.tables import (
    BINARY,
    DATA,
    MARKUP,
    MAY_BE_ZEROS,
    NEVER_HTML,
    NEVER_JSON,
    REFINED,
    RUNNABLE,
    TYPES,
)
from floradl.download.file_type.text import Markup, from_text, is_json, text_of
from floradl.errors import ErrorCode, PermanentError
from floradl.models import OutputKind

_NAME = re.compile(r"[^/\\]\.([a-z0-9]{1,8})\Z", re.IGNORECASE)
_PARAMETER = re.compile(r";\s*([\w!#$%&'*+.^`|~-]+)\s*=\s*(\"(?:[^\"\\]|\\.)*\"|[^;]*)")
_STORAGE_ERROR = re.compile(r"<(?:\w+:)?Error[\s>].{0,400}?<(?:\w+:)?Code>", re.DOTALL)
_MEDIA = frozenset({OutputKind.IMAGE, OutputKind.VIDEO, OutputKind.AUDIO})
_NOUNS = {kind: "output" if kind is OutputKind.OTHER else kind.value for kind in OutputKind}
_SOUND = {
    ".mp4": REFINED[".mp4"],
    ".m4v": REFINED[".mp4"] | {".mp4"},
    ".f4v": REFINED[".mp4"] | {".mp4"},
    ".mov": REFINED[".mp4"] | {".mp4"},
    ".mkv": REFINED[".mkv"],
    ".webm": REFINED[".webm"],
    ".ogv": frozenset({".ogg", ".oga", ".ogx", ".ogm"}),
}
"""Containers of pictures and sound, and what else an audio output in one may be called."""
_SUBTITLES = frozenset({".vtt", ".srt", ".ass", ".ttml"})
_PACKED = REFINED[".gz"] | {".gz"}
_LEGACY = frozenset({".doc", ".xls", ".ppt"})  # of which Windows says that CSV and HTML files are such
_PAGES = {".html": "an HTML page", ".xml": "an XML document", ".json": "a JSON document"}
_OFTEN_WRONG = _LEGACY | {".txt", ".html", ".xml", ".json"}
"""What servers say of what they do not know better, and of their errors."""


class _Claims(msgspec.Struct, frozen=True):
    """What an answer claims: type and subtype, and the extensions by type, by name, by the URL requested."""

    media_type: str
    declared: str | None
    named: str | None
    asked: str | None

    @property
    def by_weight(self) -> tuple[str | None, ...]:
        """Both extensions, first the one to be believed: many servers call every text plain."""
        both = (self.declared, self.named)
        return both[::-1] if self.declared == ".txt" else both

    def among(self, extensions: frozenset[str]) -> bool:
        """Whether it says to be one of these; the name does not count against a type of its own."""
        if self.declared in extensions:
            return True
        settled = self.declared is not None and self.declared not in BINARY | _OFTEN_WRONG
        return not settled and (self.named in extensions or self.asked in extensions)


def identify(
    head: bytes,
    content_type: str | None,
    url_path: str,
    kind: OutputKind,
    disposition: str | None = None,
    asked_path: str = "",
) -> str:
    """Return the extension as `extension` does, of a file that is what was asked for.

    Raises `PermanentError` (`not_media`) where something else came instead of an output of this kind.
    That is a page, a message or zeros where the kind, the type or the name asks for a format that has a
    signature. A document or another output may be a page or a message itself, unless it says to be something
    else; one of the storage is refused there too. A `text` output may hold anything but the storage's.
    """
    claims = _claims(content_type, url_path, disposition, asked_path)
    certain = from_content(head) if kind is not OutputKind.TEXT else None
    wrong = _found_instead(head, claims, kind, certain)
    if wrong:
        raise PermanentError(f"the server sent {wrong} instead of the {_NOUNS[kind]}", ErrorCode.NOT_MEDIA)
    return _extension(head, claims, kind, certain)


def extension(
    head: bytes,
    content_type: str | None,
    url_path: str,
    kind: OutputKind,
    disposition: str | None = None,
    asked_path: str = "",
) -> str:
    """Return the extension, dot included, of a file that begins with `head` (`signatures.HEAD` bytes of it).

    `content_type` and `disposition` are the headers as they came; `url_path` is the path of the URL that
    answered, without query, `asked_path` that of the one whose redirects led there.
    A `text` output is `.txt` always; what is unknown is `.bin`.
    """
    claims = _claims(content_type, url_path, disposition, asked_path)
    return _extension(head, claims, kind, from_content(head))


def _extension(head: bytes, claims: _Claims, kind: OutputKind, certain: str | None) -> str:
    if kind is OutputKind.TEXT:
        return ".txt"
    if certain is None:
        return _claimed(head, claims)
    if kind is OutputKind.AUDIO and certain in _SOUND:
        return _of_sound(head, certain, claims)
    if certain == ".mp3" and not hides_behind_tags(head):
        return certain
    for better in claims.by_weight:
        if better in REFINED.get(certain, ()) and not (
            better == ".txt" and Markup(text_of(head) or "").is_page
        ):
            return better or certain
    return certain


def media_type(content_type: str | None) -> str:
    """Return `type/subtype` in lower case without parameters (RFC 9110, 8.3.1); empty where none is."""
    return (content_type or "").partition(";")[0].strip().lower()


def _claims(content_type: str | None, url_path: str, disposition: str | None, asked_path: str) -> _Claims:
    declared = media_type(content_type)
    asked = _from_name(asked_path)
    named = _from_name(url_path) or asked or _from_name(_file_name(disposition or ""))
    return _Claims(declared, TYPES.get(declared), named, asked)


def _from_name(name: str) -> str | None:
    found = _NAME.search(name)
    named = f".{found[1].lower()}" if found else None
    return None if named in RUNNABLE else named


def _file_name(disposition: str) -> str:
    """Return the file name of a Content-Disposition (RFC 6266, 4.3; RFC 8187, 3.2), empty for none."""
    given = {found[1].lower(): found[2].strip() for found in _PARAMETER.finditer(f";{disposition}"[:4096])}
    coding, mark, rest = given.get("filename*", "").partition("'")
    value = rest.partition("'")[2]
    if mark and value:
        return unquote(value, encoding="latin-1" if coding.lower() == "iso-8859-1" else "utf-8").strip()
    plain = given.get("filename", "")
    return re.sub(r"\\(.)", r"\1", plain[1:-1]) if plain.startswith('"') else plain


def _claimed(head: bytes, claims: _Claims) -> str:
    """Return the extension by type and name, for a content without a certain one."""
    declared, named = claims.declared, claims.named
    is_text = text_of(head) is not None
    if declared in _LEGACY and is_text and named:
        return named  # Windows calls a CSV file by the program that opens it
    if named and (declared in {None, ".txt"} or named in REFINED.get(declared or "", ())):
        return named
    return declared or (".txt" if claims.media_type.startswith("text/") and is_text else ".bin")


def _of_sound(head: bytes, certain: str, claims: _Claims) -> str:
    """Return what an audio output is in a container that may hold pictures, too: then type or name decide."""
    alone = {".mp4": ".m4a", ".m4v": ".m4a", ".f4v": ".m4a", ".mkv": ".mka"}.get(certain, certain)
    pictures = holds_pictures(head)
    claimed = [claim for claim in (claims.declared, claims.named) if claim in _SOUND[certain] | {certain}]
    if pictures is False:
        return next((claim for claim in claimed if claim and claim != certain), alone)
    return next((claim for claim in claimed if claim), certain if pictures else alone)


def _found_instead(head: bytes, claims: _Claims, kind: OutputKind, certain: str | None) -> str | None:
    text = text_of(head)
    if text and _is_storage_error(text, claims, kind):
        return "an error message of the storage"
    if kind is OutputKind.TEXT:
        return None
    if not head:
        return None if kind is OutputKind.OTHER else "an empty file"
    if not any(head):
        return "zeros" if _cannot_be_zeros(claims, kind) else None
    if certain == ".gz" and not claims.among(_PACKED):  # a page that lost its Content-Encoding
        text = text_of(unzipped(head))
        certain = from_text(text) if text else certain
    if text is None or certain not in {None, ".html", ".xml"}:
        return None
    return _not_media(text, claims) if kind in _MEDIA else _not_document(text, claims)


def _is_storage_error(text: str, claims: _Claims, kind: OutputKind) -> bool:
    markup = Markup(text)
    if markup.root != "error" or not _STORAGE_ERROR.match(text, markup.start):
        return False
    return kind in _MEDIA or (claims.declared == ".xml" and claims.named not in MARKUP)


def _cannot_be_zeros(claims: _Claims, kind: OutputKind) -> bool:
    if claims.among(BINARY | NEVER_JSON | DATA):
        return not claims.among(MAY_BE_ZEROS)
    # Raw sound may begin with silence, but no picture begins with nothing but zeros.
    return kind in {OutputKind.IMAGE, OutputKind.VIDEO} and claims.declared is None and claims.named is None


def _not_media(text: str, claims: _Claims) -> str | None:
    """Name a text that should be a picture, a video or sound, and is none whose format is known."""
    markup = Markup(text)
    due = claims.among(BINARY)
    if markup.is_html:
        return _PAGES[".html"]
    if markup.is_xml or is_json(text):
        general, kin = (".xml", MARKUP) if markup.is_xml else (".json", DATA)
        known = claims.named in kin or claims.declared in kin - {general}
        return _PAGES[general] if due or not known else None
    if not due and claims.named not in {None, ".txt", ".html", ".xml", ".json"}:
        return None
    says = _PAGES.get(claims.declared or "")
    if says and not due:
        return says
    is_text = claims.media_type.startswith("text/") and claims.declared not in _SUBTITLES
    return "a text" if due or is_text else None


def _not_document(text: str, claims: _Claims) -> str | None:
    """Name a text that claims to be a document of another format."""
    markup = Markup(text)
    due = claims.among(BINARY)
    if (markup.is_html and due) or (markup.is_page and claims.among(NEVER_HTML)):
        return _PAGES[".html"]
    if is_json(text) and (due or (claims.declared == ".json" and claims.named in NEVER_JSON)):
        return _PAGES[".json"]
    if due:
        return _PAGES[".xml"] if markup.is_xml else "a text"
    return None
