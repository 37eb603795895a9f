"""Several homes stand side by side, each with a key, a workspace and folders of its own."""

from __future__ import annotations

from pathlib import Path

from studio import Home, check_library, served

from floradl.simulator import OutputSpec, Simulator

WORDS = (OutputSpec("words", "text", text="Grown."),)
SYNC = {"FLORADL_SYNC__TECHNIQUE_RUNS": "true", "FLORADL_SYNC__INTERVAL": "5s"}


def test_two_homes_work_side_by_side_and_neither_touches_the_other_s(tmp_path: Path) -> None:
    spring, studio = Simulator(), Simulator()
    with served(spring), served(studio):
        spring.add_run("run_spring", technique="campaign", outputs=WORDS, duration=0.1)
        studio.add_run("run_studio", technique="campaign", outputs=WORDS, duration=0.1)
        spring.add_run("run_queued", technique="campaign", outputs=WORDS, duration=0.1)
        here, there = Home(tmp_path / "spring", spring, **SYNC), Home(tmp_path / "studio", studio, **SYNC)
        here.path.mkdir()
        there.path.mkdir()
        with here.daemon(), there.daemon():
            here.drop("campaign/run_queued\n")
            here.finished("campaign/run_spring")
            here.finished("campaign/run_queued")
            there.finished("campaign/run_studio")
            assert [home.status()["home"] for home in (here, there)] == [str(here.path), str(there.path)]
        check_library(here, spring)
        check_library(there, studio)
        assert there.sidecar("campaign/run_queued") is None
        assert here.sidecar("campaign/run_studio") is None
