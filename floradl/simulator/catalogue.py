"""The techniques that the simulator knows from the start: one for each kind of media, and one with all."""

from __future__ import annotations

import hashlib

from floradl.simulator.runs import OutputSpec, Technique

VERDICT = (
    "The composition leads the eye well, and the light is kind to the mug.\n"
    "Bring the horizon down a little, and let the shadow breathe: it is the second subject of this picture.\n"
)


def technique_id_of(slug: str) -> str:
    """Make the `tech_…` id that goes with a slug."""
    return "tech_" + hashlib.sha256(slug.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _technique(slug: str, description: str, *outputs: OutputSpec) -> Technique:
    name = slug.replace("-", " ").capitalize()
    return Technique(technique_id_of(slug), slug, name, description, outputs=outputs)


BUILT_IN = (
    _technique(
        "art-directors-critique",
        "A picture, and what an art director says about it",
        OutputSpec("output_1", "imageUrl"),
        OutputSpec("critique", "text", text=VERDICT),
    ),
    _technique("product-shot", "One still", OutputSpec("output_1", "imageUrl")),
    _technique("camera-move", "A short clip", OutputSpec("output_1", "videoUrl")),
    _technique("sound-bed", "A tune", OutputSpec("output_1", "audioUrl")),
    _technique("brand-sheet", "A page to print", OutputSpec("output_1", "documentUrl")),
    _technique("tagline", "A line of text", OutputSpec("output_1", "text", text="Grown, not made.\n")),
    _technique(
        "campaign",
        "Outputs of all five types",
        OutputSpec("hero", "imageUrl"),
        OutputSpec("film", "videoUrl"),
        OutputSpec("jingle", "audioUrl"),
        OutputSpec("brief", "documentUrl"),
        OutputSpec("claim", "text", text="Grown, not made.\n"),
    ),
)
