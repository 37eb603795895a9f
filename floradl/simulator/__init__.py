"""A FLORA on loopback: its API and a media host, for `floradl simulate`, `floradl demo` and the tests.

Scripted runs, faults and HTTP requests come in; FLORA's answers, media and webhooks go out.

    simulator = Simulator()
    run = simulator.add_run(outputs=[OutputSpec("output_1", "videoUrl", size=6_000_000)], duration=2)
    async with serve(simulator) as base_url:

Needs the extra `simulator` (aiohttp).
"""

from floradl.simulator.faults import Do, Fault, FaultBook, Match
from floradl.simulator.runs import MediaStyle, OutputSpec, RunKind, ScriptedRun, Technique
from floradl.simulator.server import serve
from floradl.simulator.state import RequestRecord, Simulator

__all__ = [
    "Do",
    "Fault",
    "FaultBook",
    "Match",
    "MediaStyle",
    "OutputSpec",
    "RequestRecord",
    "RunKind",
    "ScriptedRun",
    "Simulator",
    "Technique",
    "serve",
]
