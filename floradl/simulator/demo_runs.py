"""The runs of `floradl demo`: every kind of media, one that fails, and some that take a while to arrive."""

from __future__ import annotations

from floradl.models import Reference
from floradl.simulator.runs import VERDICT, OutputSpec
from floradl.simulator.state import Simulator

_KB, _MB = 1_000, 1_000_000

_RUNS: tuple[tuple[str, float, tuple[OutputSpec, ...]], ...] = (
    ("tagline", 1.0, (OutputSpec("output_1", "text", text="Grown, not made.\n"),)),
    ("product-shot", 1.5, (OutputSpec("output_1", "imageUrl", size=180 * _KB, rate=300 * _KB),)),
    (
        "art-directors-critique",
        2.0,
        (
            OutputSpec("output_1", "imageUrl", size=900 * _KB, rate=1 * _MB),
            OutputSpec("critique", "text", text=VERDICT),
        ),
    ),
    ("brand-sheet", 2.5, (OutputSpec("output_1", "documentUrl", size=60 * _KB),)),
    ("sound-bed", 3.0, (OutputSpec("output_1", "audioUrl", size=2 * _MB, rate=1 * _MB),)),
    ("camera-move", 3.5, (OutputSpec("output_1", "videoUrl", size=6 * _MB, rate=2 * _MB),)),
    (
        "product-shot",
        4.0,
        tuple(
            OutputSpec(f"output_{number}", "imageUrl", size=number * 400 * _KB, rate=700 * _KB)
            for number in range(1, 5)
        ),
    ),
    ("camera-move", 5.0, (OutputSpec("output_1", "videoUrl", size=4 * _MB, rate=1.5 * _MB),)),
    (
        "campaign",
        6.0,
        (
            OutputSpec("hero", "imageUrl", size=1_400 * _KB, rate=1 * _MB),
            OutputSpec("film", "videoUrl", size=5 * _MB, rate=2 * _MB),
            OutputSpec("jingle", "audioUrl", size=600 * _KB, rate=400 * _KB),
            OutputSpec("brief", "documentUrl", size=90 * _KB),
            OutputSpec("claim", "text", text="Grown, not made.\n"),
        ),
    ),
    ("sound-bed", 7.0, (OutputSpec("output_1", "audioUrl", size=800 * _KB, rate=800 * _KB),)),
)


def demo_runs(simulator: Simulator) -> list[Reference]:
    """Start a dozen runs, and give their references. They end after 1 to 8 seconds at speed 1."""
    references = [
        simulator.add_run(f"run_demo{number:02}", technique=technique, duration=duration, outputs=outputs)
        for number, (technique, duration, outputs) in enumerate(_RUNS, start=1)
    ]
    refused = ("safety_blocked", "The prompt was refused by the model's safety system.")
    still = (OutputSpec("output_1", "imageUrl", size=250 * _KB, rate=250 * _KB),)
    return [
        *references,
        simulator.add_run("run_demo11", technique="product-shot", duration=4.5, fail=refused),
        simulator.add_run("run_demo12", technique=None, duration=8.0, outputs=still),
    ]
