"""XMP beside a file, as `NAME.EXT.xmp`: what a photo manager shows of the run that made it.

Sources: XMP Specification 1 (ISO 16684-1) for packet, RDF and the schemas `dc`, `xmp`, `photoshop`, `exif`;
IPTC Photo Metadata 2025.1 for prompt and model; digiKam and immich read `NAME.EXT.xmp`, and tags from
`lr:hierarchicalSubject`. The same sidecar gives the same bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from floradl.library.sidecar import Sidecar
from floradl.models import SavedOutput

ENDING: Final = ".xmp"
"""What a companion's name has behind that of its file."""

MAX_BYTES: Final = 1 << 20
"""More than any companion of ours has."""

_LONGEST_TEXT: Final = 20_000  # characters
_LONGEST_NAME: Final = 1000
_NAMESPACES: Final = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "floradl": "urn:floradl:xmp:1/",
}
_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_HEAD: Final = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/" '
)
_MARKED: Final = re.compile(re.escape(_HEAD).encode() + rb'x:xmptk="floradl ([0-9a-f]{16})">')
# What XML 1.0 does not let stand in a text (section 2.2), but for line ends and tabs.
_NOT_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def render(sidecar: Sidecar, output: SavedOutput) -> bytes:
    """Return the companion of an output's file."""
    technique = sidecar.technique or sidecar.technique_id
    project = sidecar.project_name or sidecar.project_id
    subjects = list(dict.fromkeys(filter(None, (sidecar.technique_name or technique, project))))
    when = sidecar.times.completed_at or sidecar.times.finished_at
    simple = {
        "xmp:CreatorTool": technique or sidecar.model_id or "FLORA",
        "xmp:CreateDate": when,
        "photoshop:DateCreated": when,
        "exif:DateTimeOriginal": when,
        "dc:identifier": sidecar.run_id,
        "dc:format": output.content_type and output.content_type.partition(";")[0].strip(),
        "Iptc4xmpExt:AISystemUsed": sidecar.model_id,
        "Iptc4xmpExt:AIPromptInformation": _prompt(sidecar),
        "floradl:RunID": sidecar.run_id,
        "floradl:OutputID": output.output_id,
        "floradl:Technique": technique,
        "floradl:Project": project,
        "floradl:Model": sidecar.model_id,
        "floradl:ChargedCostUSD": _cost(sidecar.run),
        "floradl:SHA256": output.sha256,
    }
    elements = [
        *_alternatives("dc:title", sidecar.label, _LONGEST_NAME),
        *_alternatives("dc:description", _texts(sidecar.outputs), _LONGEST_TEXT),
        *_bag("dc:subject", subjects),
        *_bag("lr:hierarchicalSubject", [subject.replace("|", " ") for subject in subjects]),
        *(f"<{name}>{_text(value, _bound(name))}</{name}>" for name, value in simple.items() if value),
    ]
    spaces = "".join(f'\n    xmlns:{prefix}="{uri}"' for prefix, uri in _NAMESPACES.items())
    inner = "".join(f"   {element}\n" for element in elements)
    rest = (
        f'\n <rdf:RDF xmlns:rdf="{_RDF}">\n  <rdf:Description rdf:about=""{spaces}>\n{inner}'
        '  </rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="w"?>\n'
    ).encode()
    return f'{_HEAD}x:xmptk="floradl {_mark(rest)}">'.encode() + rest


def is_untouched(data: bytes) -> bool:
    """Whether a companion is one of ours that nobody has changed: others put in a name of their own."""
    found = _MARKED.match(data)
    return found is not None and found[1].decode() == _mark(data[found.end() :])


def _mark(rest: bytes) -> str:
    return hashlib.sha256(rest).hexdigest()[:16]


def _bound(name: str) -> int:
    return _LONGEST_TEXT if name == "Iptc4xmpExt:AIPromptInformation" else _LONGEST_NAME


def _text(text: str, longest: int) -> str:
    kept = _NOT_XML.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    kept = kept if len(kept) <= longest else f"{kept[: longest - 1]}…"
    return kept.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _alternatives(name: str, text: str | None, longest: int) -> Iterator[str]:
    if text:
        inner = f'<rdf:li xml:lang="x-default">{_text(text, longest)}</rdf:li>'
        yield f"<{name}><rdf:Alt>{inner}</rdf:Alt></{name}>"


def _bag(name: str, texts: Iterable[str]) -> Iterator[str]:
    inner = "".join(f"<rdf:li>{_text(text, _LONGEST_NAME)}</rdf:li>" for text in texts)
    if inner:
        yield f"<{name}><rdf:Bag>{inner}</rdf:Bag></{name}>"


def _texts(outputs: Iterable[SavedOutput]) -> str:
    return "\n\n".join(output.text.strip() for output in outputs if output.text and output.text.strip())


def _cost(run: dict[str, Any] | None) -> str | None:
    cost = (run or {}).get("charged_cost", (run or {}).get("chargedCost"))
    return repr(cost) if type(cost) in {int, float} else None


def _prompt(sidecar: Sidecar) -> str | None:
    """Return the prompt, where the user named it or FLORA's answer has it."""
    run = sidecar.run or {}
    for said in (sidecar.meta, run, run.get("inputs"), run.get("input")):
        if isinstance(said, dict) and isinstance(prompt := said.get("prompt"), str) and prompt.strip():
            return prompt
    return None
