"""What a download is: its extension, and whether it is media at all.

The content speaks first, where it is certain (`signatures`); then the content type; then the URL's path.
"""

from __future__ import annotations

import re

from floradl.errors import ErrorCode, PermanentError
from floradl.media.signatures import from_content, is_html, text_of
from floradl.models import Kind

_TYPES = {
    "image/png": ".png",
    "image/apng": ".png",
    "image/jpeg": ".jpg",
    "image/jpg": ".jpg",
    "image/pjpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/avif": ".avif",
    "image/heic": ".heic",
    "image/heif": ".heif",
    "image/jxl": ".jxl",
    "image/jp2": ".jp2",
    "image/bmp": ".bmp",
    "image/tiff": ".tiff",
    "image/svg+xml": ".svg",
    "image/vnd.adobe.photoshop": ".psd",
    "image/x-photoshop": ".psd",
    "image/x-exr": ".exr",
    "image/aces": ".exr",
    "image/vnd.radiance": ".hdr",
    "image/x-icon": ".ico",
    "image/vnd.microsoft.icon": ".ico",
    "image/x-adobe-dng": ".dng",
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
    "video/matroska": ".mkv",
    "video/ogg": ".ogv",
    "video/mpeg": ".mpg",
    "video/mp2t": ".ts",
    "video/x-m4v": ".m4v",
    "video/x-msvideo": ".avi",
    "video/x-ms-wmv": ".wmv",
    "video/x-flv": ".flv",
    "video/3gpp": ".3gp",
    "audio/mpeg": ".mp3",
    "audio/mp3": ".mp3",
    "audio/mp4": ".m4a",
    "audio/x-m4a": ".m4a",
    "audio/m4a": ".m4a",
    "audio/aac": ".aac",
    "audio/aacp": ".aac",
    "audio/wav": ".wav",
    "audio/wave": ".wav",
    "audio/x-wav": ".wav",
    "audio/vnd.wave": ".wav",
    "audio/flac": ".flac",
    "audio/x-flac": ".flac",
    "audio/ogg": ".ogg",
    "audio/opus": ".opus",
    "audio/webm": ".webm",
    "audio/aiff": ".aiff",
    "audio/x-aiff": ".aiff",
    "audio/midi": ".mid",
    "audio/amr": ".amr",
    "audio/x-ms-wma": ".wma",
    "application/pdf": ".pdf",
    "application/msword": ".doc",
    "application/vnd.ms-excel": ".xls",
    "application/vnd.ms-powerpoint": ".ppt",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
    "application/vnd.oasis.opendocument.text": ".odt",
    "application/vnd.oasis.opendocument.spreadsheet": ".ods",
    "application/vnd.oasis.opendocument.presentation": ".odp",
    "application/epub+zip": ".epub",
    "application/rtf": ".rtf",
    "application/postscript": ".ps",
    "application/json": ".json",
    "application/ld+json": ".json",
    "application/xml": ".xml",
    "application/zip": ".zip",
    "application/x-zip-compressed": ".zip",
    "application/gzip": ".gz",
    "application/x-tar": ".tar",
    "application/x-7z-compressed": ".7z",
    "application/vnd.apple.mpegurl": ".m3u8",
    "application/x-subrip": ".srt",
    "application/yaml": ".yaml",
    "model/gltf-binary": ".glb",
    "model/gltf+json": ".gltf",
    "model/obj": ".obj",
    "model/stl": ".stl",
    "model/vnd.usdz+zip": ".usdz",
    "font/otf": ".otf",
    "font/ttf": ".ttf",
    "font/woff": ".woff",
    "font/woff2": ".woff2",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "text/xml": ".xml",
    "text/vtt": ".vtt",
    "text/rtf": ".rtf",
}
# The content tells the container; what was packed into it the content type or the URL may know better.
_REFINED = {
    ".zip": frozenset(
        {".docx", ".xlsx", ".pptx", ".odt", ".ods", ".odp", ".epub", ".usdz", ".cbz", ".3mf", ".kmz"}
    ),
    ".doc": frozenset({".xls", ".ppt"}),
    ".xml": frozenset({".gpx", ".kml", ".dae", ".fcpxml", ".ttml", ".rss"}),
    ".tiff": frozenset({".dng", ".nef", ".arw", ".cr2"}),
    ".mp4": frozenset({".m4a", ".m4v"}),
    ".mp3": frozenset({".aac", ".flac"}),
    ".ogg": frozenset({".oga", ".ogv", ".spx"}),
    ".mkv": frozenset({".mka"}),
    ".wmv": frozenset({".wma", ".asf"}),
    ".gz": frozenset({".tgz"}),
}
# A stranger's URL does not get to put something that a double click runs into the library.
_RUNNABLE = frozenset(
    {
        *(".app", ".bat", ".cmd", ".com", ".cpl", ".desktop", ".dll", ".exe", ".hta", ".jar", ".js", ".jse"),
        *(".lnk", ".msi", ".pif", ".ps1", ".reg", ".scr", ".sh", ".url", ".vbe", ".vbs", ".wsf"),
    }
)
_SANE = re.compile(r"[^/]\.([a-z0-9]{1,8})\Z", re.IGNORECASE)
_MARKUP = frozenset({".html", ".xml"})
_STORAGE_ERROR = re.compile(r"<(?:\w+:)?Error[\s>].{0,400}?<(?:\w+:)?Code>", re.DOTALL)
_JSON = re.compile(r"\{\s*[\"}]|\[\s*[\[{\"\]]")
_JSON_ERROR = re.compile(r'\{\s*"(?:error|errors|detail|message)"\s*:')
_MEDIA = frozenset({Kind.IMAGE, Kind.VIDEO, Kind.AUDIO})


def extension(head: bytes, content_type: str | None, url_path: str, kind: Kind) -> str:
    """Return the extension, dot included, of a file that begins with `head`.

    `content_type` is the header as it came, parameters and all; `url_path` a URL's path, without query.
    A `text` output is `.txt` always; what nothing tells is `.bin`.
    """
    if kind is Kind.TEXT:
        return ".txt"
    declared = _TYPES.get(media_type(content_type))
    named = _from_path(url_path)
    certain = from_content(head)
    if certain is None:
        return declared or named or ".bin"
    for better in (declared, named):
        if better in _REFINED.get(certain, ()):
            return better or certain
    return ".m4a" if certain == ".mp4" and kind is Kind.AUDIO else certain


def refuse_not_media(head: bytes, content_type: str | None, kind: Kind) -> None:
    """Raise `PermanentError` (`not_media`) where an error page came instead of an output of this kind.

    For an image, video or audio: nothing at all, HTML, XML that is no SVG, JSON, or a text that says it
    is one. A document may be HTML or JSON itself, unless it says to be something else; an error message of
    the storage or of the API is refused there too. A `text` output may hold anything but the storage's.
    """
    wrong = _found_instead(head, media_type(content_type), kind)
    if wrong:
        raise PermanentError(f"the server sent {wrong} instead of the {_NOUNS[kind]}", ErrorCode.NOT_MEDIA)


_NOUNS = {kind: "output" if kind is Kind.OTHER else kind.value for kind in Kind}


def _found_instead(head: bytes, declared: str, kind: Kind) -> str | None:
    text = text_of(head)
    if _STORAGE_ERROR.match(text):
        return "an error message of the storage"
    if kind is Kind.TEXT:
        return None
    if not head:
        return None if kind is Kind.OTHER else "an empty file"
    if kind in _MEDIA:
        return _not_media(head, text, declared)
    if is_html(head) and _TYPES.get(declared, ".html") not in {".html", ".txt"}:
        return "an HTML page"
    if _JSON_ERROR.match(text) and len(head) < 4096 and declared == "application/json":
        return "an error message (JSON)"
    return None


def _not_media(head: bytes, text: str, declared: str) -> str | None:
    certain = from_content(head)
    if certain is not None and certain not in _MARKUP:
        return None
    if certain == ".html" or declared in {"text/html", "application/xhtml+xml"}:
        return "an HTML page"
    if certain == ".xml" or declared in {"text/xml", "application/xml"}:
        return "an XML document"
    if _JSON.match(text) or declared == "application/json":
        return "a JSON document"
    return "a text" if declared.startswith("text/") else None


def media_type(content_type: str | None) -> str:
    """Return `type/subtype` in lower case without parameters (RFC 9110, 8.3.1); empty where none is."""
    return (content_type or "").partition(";")[0].strip().lower()


def _from_path(url_path: str) -> str | None:
    found = _SANE.search(url_path)
    named = f".{found[1].lower()}" if found else None
    return None if named in _RUNNABLE else named
