"""What passes between a measurement and its simulated FLORA: what to play, and what was seen."""

from __future__ import annotations

from msgspec import Struct

from floradl.simulator.runs import ProgressStyle

TECHNIQUE = "benchmark"


class PlayedOutput(Struct, frozen=True):
    """One output: its type, and its URL; for a `text` the words."""

    output_id: str
    type: str
    content: str


class PlayedRun(Struct, frozen=True):
    """One run: it begins when the simulator is up, or `age` seconds before, and takes `duration` seconds."""

    run_id: str
    duration: float
    outputs: tuple[PlayedOutput, ...]
    age: float = 0.0


class Script(Struct, frozen=True):
    """The runs, and how the API behaves: requests a second, whether it lists runs, how many a page.

    `progress` is how that of the runs grows. Beside `runs` there are so many of a `crowd`, named by
    `crowd_id`, which take a day; lists show those that were asked about before.
    """

    runs: tuple[PlayedRun, ...]
    rate_limit: float | None = None
    listing: bool = True
    page_limit: int = 100
    progress: ProgressStyle = "even"
    crowd: int = 0


def crowd_id(nth: int) -> str:
    """Return the id of a run of a crowd, counted from 0."""
    return f"run_crowd_{nth:07}"


class Request(Struct, frozen=True):
    """One request to the API as it was answered. `time` is unix seconds."""

    time: float
    status: int
    path: str


class Report(Struct, frozen=True):
    """What was seen, in unix seconds: when runs ended, and when an answer first said so to the client."""

    began: float
    requests: tuple[Request, ...]
    ended: dict[str, float]
    told: dict[str, float]

    @property
    def delays(self) -> list[float]:
        """The seconds from each run's end to the answer that told it, for the runs whose end was told."""
        return [told - self.ended[run_id] for run_id, told in self.told.items()]


def words(run_id: str, duration: float, age: float = 0.0) -> PlayedRun:
    """Return a run that brings a line of text, so that there is nothing to download."""
    return PlayedRun(run_id, duration, (PlayedOutput("output_1", "text", f"The words of {run_id}.\n"),), age)
