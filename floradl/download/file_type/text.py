"""What a text is: markup by its root element, JSON by its keys, and others by their first lines.

Sources: WHATWG MIME Sniffing, 7.1 (HTML); XML 1.0, 2.8 (prolog); SVG 2, 5.1; WebVTT, 4; RFC 8216, 4.3.1
(HLS); ISO/IEC 23009-1 (DASH); glTF 2.0, 5; the Lottie format 1.0, "Animation"; the others' specifications.
"""

from __future__ import annotations

import codecs
import re
from itertools import islice

_CONTROL = bytes({*range(32), 127} - set(b"\t\n\f\r\x1b"))
_PROLOG = re.compile(r"\s+|<!--.*?-->|<\?.*?\?>", re.DOTALL)
_MARK = re.compile(r"<!--|<\?|[\"'\[\]>]")
_CLOSE = {"<!--": "-->", "<?": "?>", '"': '"', "'": "'"}
_DOCTYPE = re.compile(r"<!doctype\s+([\w:.-]+)", re.IGNORECASE)
_ROOT = re.compile(r"<(?:([A-Za-z_][\w.-]*):)?([A-Za-z_][\w.-]*)(?=[\s/>]|\Z)")
_BEFORE_SVG = re.compile(r"<(style|title|desc|metadata|defs)\b[^>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_SVG_SPACE = "http://www.w3.org/2000/svg"
_ROOTS = {
    **{name: f".{name}" for name in ("svg", "mpd", "smil", "x3d", "gpx", "kml", "fcpxml", "amf")},
    **dict.fromkeys(("score-partwise", "score-timewise"), ".musicxml"),
    "tt": ".ttml",
    "collada": ".dae",
    "smoothstreamingmedia": ".ismc",
}
_PAGE = frozenset({"html", "head", "body"})
"""Elements that begin an HTML page; those that begin a piece of one may begin Markdown, too."""
_PIECE = re.compile(
    "script|iframe|h[123]|div|font|table|a|style|title|b|br|p|meta|link|center|img|picture|details|main|section"
    "|header|span|ul"
)
_JSON = re.compile(r"\{\s*[\"}]|\[\s*[\[{\"\]]")
_GLTF = re.compile(r'"asset"\s*:\s*\{[^{}]*"version"\s*:\s*"\d')
_GLTF_KEYS = re.compile(r'"(accessors|bufferViews|meshes|nodes|scenes)"\s*:\s*\[\s*\{')
_LOTTIE_KEYS = re.compile(r'"(?:(v)"\s*:\s*"\d+\.\d|(fr|ip|op|w|h)"\s*:\s*-?[\d.]|(layers|assets)"\s*:\s*\[)')
_LINES = [
    (re.compile(pattern), extension)
    for pattern, extension in (
        (r"WEBVTT(?:[ \t\r\n]|\Z)", ".vtt"),
        (r"#EXTM3U(?:[ \t\r\n:]|\Z)", ".m3u8"),
        (r"\d+[ \t]*\r?\n\d{1,2}:\d\d:\d\d[,.]\d{1,3}[ \t]*-->", ".srt"),
        (r"\[Script Info\]\s", ".ass"),
        (r"\[playlist\]\s", ".pls"),
        (r"(?:\[[a-z]{2,6}:[^\]\n]*\]\s{1,4})*\[\d\d:\d\d[.:]\d\d", ".lrc"),
        (r"Scenarist_SCC V", ".scc"),
        (r"#usda 1\.", ".usda"),
        (r"#VRML V", ".wrl"),
        (r"OFF\s(?:#[^\n]*\n|\s)*\d+\s+\d+\s+\d+\s", ".off"),
        (r"(?:#[^\n]*\n|\s)*newmtl\s", ".mtl"),
        (r"xof 030[23]txt 00", ".x"),
        (r"solid\b[^\n]*\n\s*facet\s+normal\s", ".stl"),
        (r"; FBX \d", ".fbx"),
        (r"HIERARCHY\s+ROOT\s", ".bvh"),
        (r"//Maya ASCII", ".ma"),
        (r"ISO-10303-21;", ".step"),
        (r"(?:999\r?\n[^\n]*\n\s*){0,9}0\r?\n\s*SECTION\r?\n", ".dxf"),
        (r"/\* XPM \*/", ".xpm"),
        (r"(?:/\*[^*]*\*/\s*)?#define\s+\S*width\s+\d+\s+#define\s+\S*height\s+\d+\s", ".xbm"),
        (r"(?:#[^\n]*\n|TITLE [^\n]*\n|DOMAIN_M[^\n]*\n|\s)*LUT_[13]D_SIZE\s+\d", ".cube"),
    )
]
_WORDS_OF_OBJ = frozenset({"v", "vn", "vt", "vp", "f", "l", "p", "o", "g", "s", "mtllib", "usemtl"})
_VERTEX = re.compile(r"v(?:[ \t]+-?[\d.]+(?:[eE][-+]?\d+)?){3,}")


def text_of(head: bytes) -> str | None:
    """Return the beginning as text without byte order mark and white space, `None` for what is no text.

    UTF-8, UTF-16 with its mark or beginning with `<`, or one byte a character without control characters.
    """
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<")):
        text = _wide(head)
    elif 0 in head or 100 * (len(head) - len(head.translate(None, _CONTROL))) > len(head):
        return None
    else:
        text = _narrow(head)
    return None if "\0" in text else text.lstrip("\ufeff \t\r\n\f\v")


def _wide(head: bytes) -> str:
    """Read UTF-16; two bytes at random are a character nearly always, but hardly ever one of ASCII."""
    coding = {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}.get(head[:2], "utf-16")
    text = head.decode(coding, errors="ignore")
    return text if sum(character.isascii() for character in text[:4096]) * 10 >= len(text[:4096]) else "\0"


def _narrow(head: bytes) -> str:
    try:  # the last character may be cut
        return codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        high = len(head) - len(head.translate(None, bytes(range(128, 256))))
    # In few bytes the absence of control characters says little; half of them from beyond ASCII says more.
    text = head.removeprefix(codecs.BOM_UTF8).decode("latin-1")
    return text if len(head) >= 64 or high * 3 < len(head) else "\0"


class Markup:
    """What stands first in a text that may be XML or HTML.

    `root` is the local name of the first element in lower case, else that of the document type; empty for
    none. `declared`: it has an XML declaration, a document type, or a comment before.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.doctype = ""
        self.declared = text.startswith("<?xml")
        at = self._skip(0)
        found = _ROOT.match(text, at)
        self.prefix = found[1] or "" if found else ""
        self.root = found[2].lower() if found else ""
        self.start = at
        if self.root not in {"svg", ""} and self._leads_to_svg(at):
            self.root, self.prefix = "svg", ""
        if self.root == "svg" and not self._is_svg():
            self.root = "?"
        self.root = self.root or self.doctype

    def _skip(self, at: int) -> int:
        while True:
            if found := _PROLOG.match(self.text, at):
                at = found.end()
            elif found := _DOCTYPE.match(self.text, at):
                self.doctype = found[1].lower().rpartition(":")[2]
                self.declared = True
                end = _end_of_doctype(self.text, found.end())
                if end is None:
                    return len(self.text)
                at = end
            else:
                return at

    def _leads_to_svg(self, at: int) -> bool:
        """Whether but a few elements stand between here and the drawing, that are no page of their own."""
        for _ in range(8):
            found = _BEFORE_SVG.match(self.text, at)
            if not found:
                return False
            at = self._skip(found.end())
            if re.compile(r"<svg[\s>/]", re.IGNORECASE).match(self.text, at):
                return True
        return False

    def _is_svg(self) -> bool:
        if self.prefix in {"", "svg"}:
            return True
        # Python's ElementTree writes ns0:svg; whatever the prefix, it is bound where the element begins.
        bound = re.compile(rf"xmlns:{re.escape(self.prefix)}\s*=\s*[\"']([^\"']*)[\"']").search(
            self.text, self.start, self.start + 8192
        )
        return bound is not None and (bound[1] == _SVG_SPACE or bound[1].startswith("&"))

    @property
    def is_page(self) -> bool:
        """Whether it says to be a whole HTML page."""
        return self.doctype == "html" or self.root in _PAGE

    @property
    def is_html(self) -> bool:
        """Whether a browser would take it for HTML; Markdown may begin so, too."""
        return self.is_page or (not self.prefix and bool(_PIECE.fullmatch(self.root)))

    @property
    def is_xml(self) -> bool:
        """Whether it is XML that is not HTML."""
        return not self.is_html and bool(self.root) and (self.declared or self.root in _ROOTS)


def _end_of_doctype(text: str, at: int) -> int | None:
    """Return where a document type ends whose name ends `at`, with entities and comments; `None` for cut."""
    depth = 0
    while found := _MARK.search(text, at):
        mark, at = found[0], found.end()
        if mark in _CLOSE:
            end = text.find(_CLOSE[mark], at)
            if end < 0:
                return None
            at = end + len(_CLOSE[mark])
        elif mark == ">" and depth <= 0:
            return at
        else:
            depth += {"[": 1, "]": -1}.get(mark, 0)
    return None


def is_json(text: str) -> bool:
    """Whether it begins as a JSON object, or an array of objects, arrays or strings."""
    return bool(_JSON.match(text))


def from_text(text: str) -> str | None:
    """Return the extension of a text whose beginning shows it for certain, `None` for others."""
    if text.startswith("<"):
        return _from_markup(Markup(text))
    if is_json(text):
        return _from_json(text)
    for pattern, extension in _LINES:
        if pattern.match(text):
            return extension
    return ".obj" if _is_obj(text) else None


def _from_markup(markup: Markup) -> str | None:
    if markup.is_html:
        return ".html"
    if markup.is_xml:
        return _ROOTS.get(markup.root, ".xml")
    return ".xml" if markup.text.startswith("<?xml") else None


def _from_json(text: str) -> str | None:
    if _GLTF.search(text) or len(set(_GLTF_KEYS.findall(text))) > 1:
        return ".gltf"
    return ".json" if len({max(found) for found in _LOTTIE_KEYS.findall(text)}) > 3 else None


def _is_obj(text: str) -> bool:
    """Whether all lines, as far as they show, are ones of Wavefront's format, and one is a vertex."""
    vertices = 0
    lines = (line.strip() for line in text[:8192].split("\n")[:-1])
    for line in islice((line for line in lines if line and not line.startswith("#")), 100):
        if line.split(None, 1)[0] not in _WORDS_OF_OBJ:
            return False
        vertices += bool(_VERTEX.match(line))
    return vertices > 0
