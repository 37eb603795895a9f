"""`floradl find`: runs by their words and by filters, from an index that is as new as the library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bystanders import open_to_all
from click.testing import CliRunner
from galleries import Shelf
from studio import Home

from floradl.cli import floradl
from floradl.index.freshness import note_compared, note_looked
from floradl.index.tables import IndexFile

FAILURE = {"code": "safety_blocked", "message": "the prompt was refused"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def shelf(home: Home) -> Shelf:
    return filled(home)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose library nobody changes."""
    home = Home(tmp_path_factory.mktemp("kept"))
    filled(home)
    return home


def filled(home: Home) -> Shelf:
    home.state.mkdir()
    shelf = Shelf(home.library)
    shelf.put(
        "run_a",
        {"kind": "image"},
        {"kind": "text", "data": b"A lighthouse", "text": "A lighthouse, 東京の写真"},
        technique="camera-move",
        technique_id="tech_cam",
        technique_name="Camera move",
        label="Späte Spring drafts",
        project_id="prj_77",
        project_name="Atlas",
        meta={"client": "Kunde GmbH", "shot": "12"},
        day="2026-11-03",
    )
    shelf.put("run_b", {"kind": "video"}, technique="tagline", label="autumn", meta={"shot": "13"})
    shelf.put("run_c", {"path": None, "error": FAILURE}, result="failed", error=FAILURE, day="2026-11-01")
    settle(shelf)
    return shelf


def settle(shelf: Shelf) -> None:
    """Let all folders look as if nothing had changed for long, so that only other signs tell."""
    before = time.time_ns() - 10**11
    for folder in (shelf.root / "runs").iterdir():
        os.utime(folder, ns=(before, before))


def found(home: Home, *arguments: str) -> list[str]:
    """Return the runs that are found, in their order."""
    return [line["run_id"] for line in lines(home, *arguments)]


def lines(home: Home, *arguments: str) -> list[dict[str, Any]]:
    done = home.run("find", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [
        ("", "run_b run_a run_c"),
        ("spring", "run_a"),
        ("SPATE dra", "run_a"),
        ("s", "run_a"),
        ("真", "run_a"),
        ("light", "run_a"),
        ("kunde atlas", "run_a"),
        ("ightho", ""),
        ("run_", "run_b run_a run_c"),
        ("--technique Camera-Move", "run_a"),
        ("--technique tech_cam", "run_a"),
        ("--technique ca*move --technique tagline", "run_b run_a"),
        ("--label autumn", "run_b"),
        ("--label aut", ""),
        ("--label aut*", "run_b"),
        ("--project atlas", "run_a"),
        ("--kind video", "run_b"),
        ("--kind text --kind video", "run_b run_a"),
        ("--meta shot=1?", "run_b run_a"),
        ("--meta shot=1? --meta client=kunde*", "run_a"),
        ("--meta client=13", ""),
        ("--failed", "run_c"),
        ("--since 2026-11-02", "run_b run_a"),
        ("--since 2026-11-02 spring", "run_a"),
        ("--limit 2", "run_b run_a"),
    ],
)
def test_find_lists_the_runs_that_words_and_filters_name_the_newest_first(
    kept: Home, arguments: str, runs: str
) -> None:
    done = CliRunner().invoke(floradl, ["--home", str(kept.path), "find", "--json", *arguments.split()])
    assert [json.loads(line)["run_id"] for line in done.stdout.splitlines()] == runs.split()


def test_find_shows_a_run_with_its_files_and_says_when_nothing_matches(home: Home, shelf: Shelf) -> None:
    shown = home.run("find", "--technique", "camera-move").stdout
    assert "camera-move/run_a  Späte Spring drafts  1 image, 1 text" in shown
    assert f"  {shelf.root}/images/run_a-1.png" in shown
    assert "failed: safety_blocked: the prompt was refused" in home.run("find", "--failed").stdout
    nothing = home.run("find", "nowhere")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "no run in the library matches" in nothing.stderr
    some = home.run("find", "--limit", "1")
    assert len([line for line in some.stdout.splitlines() if not line.startswith(" ")]) == 1
    assert "the newest 1 of 3 runs" in some.stderr


def test_find_paths_prints_files_that_are_there_of_the_kinds_that_are_wanted(
    home: Home, shelf: Shelf
) -> None:
    paths = home.run("find", "--paths", "spring", "--kind", "image").stdout
    assert paths == f"{shelf.root}/images/run_a-1.png\n"
    (shelf.root / "images/run_a-1.png").unlink()
    gone = home.run("find", "--paths", "spring")
    assert gone.stdout == f"{shelf.root}/texts/run_a-2.txt\n"
    assert "1 file of these runs are not there" in gone.stderr


def test_find_json_says_what_is_known_of_a_run(home: Home, shelf: Shelf) -> None:
    (run,) = lines(home, "spring")
    assert run["reference"] == "camera-move/run_a"
    assert (run["project"], run["label"], run["charged_cost"]) == ("Atlas", "Späte Spring drafts", 0.25)
    assert run["meta"] == {"client": "Kunde GmbH", "shot": "12"}
    assert run["sidecar"] == str(shelf.sidecar("run_a", "camera-move"))
    assert run["files"] == [f"{shelf.root}/images/run_a-1.png", f"{shelf.root}/texts/run_a-2.txt"]
    assert [output["kind"] for output in run["outputs"]] == ["image", "text"]
    (failed,) = lines(home, "--failed")
    assert failed["error"] == FAILURE


def test_find_sees_a_library_that_was_changed_by_hand(home: Home, shelf: Shelf) -> None:
    assert found(home) == ["run_b", "run_a", "run_c"]
    shelf.sidecar("run_c").unlink()
    shelf.put("run_d", technique="tagline", day="2026-11-28")
    assert found(home) == ["run_d", "run_b", "run_a"]
    (shelf.root / "runs" / "tagline").rename(shelf.root / "runs" / "slogan")
    assert found(home) == ["run_d", "run_b", "run_a"]
    (shown,) = lines(home, "--label", "autumn")
    assert Path(shown["sidecar"]).parent.name == "slogan"


@pytest.mark.parametrize("words", ["spring", "summer"], ids=["what it said", "what it says now"])
def test_find_sees_a_sidecar_that_was_edited_in_place(home: Home, shelf: Shelf, words: str) -> None:
    """An editor may write into the file: no folder's time tells of that."""
    settle(shelf)
    assert found(home, "spring") == ["run_a"]
    edit_in_place(shelf)
    forget_the_look(home)
    assert found(home, words) == (["run_a"] if words == "summer" else [])


def test_sidecars_are_looked_at_the_more_rarely_the_longer_that_takes(home: Home, shelf: Shelf) -> None:
    settle(shelf)
    assert found(home, "spring") == ["run_a"]
    edit_in_place(shelf)
    forget_the_look(home, ago=120.0, took=10.0)
    assert found(home, "summer") == []
    forget_the_look(home, ago=120.0, took=1.0)
    assert found(home, "summer") == ["run_a"]


def test_all_sidecars_are_compared_once_a_day_in_case_a_clock_hid_a_change(home: Home, shelf: Shelf) -> None:
    settle(shelf)
    assert found(home, "spring") == ["run_a"]
    edit_in_place(shelf)
    forget_the_look(home)
    index = IndexFile(home.state / "index.sqlite3", str(home.library))
    with index.writing() as db:
        db.execute("UPDATE about SET value = ? WHERE key LIKE 'sure:%'", (time.time_ns() + 10**12,))
    assert found(home, "summer") == []
    note_compared(index, time.time() - 100_000)
    index.close()
    forget_the_look(home)
    assert found(home, "summer") == ["run_a"]


def edit_in_place(shelf: Shelf) -> None:
    """Write into a sidecar as an editor may: no folder's time tells of that."""
    with shelf.sidecar("run_a", "camera-move").open("r+") as file:
        edited = file.read().replace("Spring", "Summer")
        file.seek(0)
        file.write(edited)


def forget_the_look(home: Home, ago: float = 1800.0, took: float = 0.0) -> None:
    """Let the last look at every sidecar be so long ago; it took so many seconds."""
    file = IndexFile(home.state / "index.sqlite3", str(home.library))
    note_looked(file, time.time() - ago, took)
    file.close()


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_bytes(b"no database" * 900)])
@pytest.mark.usefixtures("shelf")
def test_find_makes_a_deleted_or_damaged_index_anew(home: Home, spoil: Any) -> None:
    assert found(home, "spring") == ["run_a"]
    spoil(home.state / "index.sqlite3")
    assert found(home, "spring") == ["run_a"]


@pytest.mark.usefixtures("shelf")
def test_find_answers_from_the_index_without_importing_what_reads_a_library(
    home: Home, tmp_path: Path
) -> None:
    assert found(home, "spring") == ["run_a"]
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(
        "import atexit, os, sys\n"
        "real = os._exit\n"
        "def leave(code):\n"
        "    print(*sys.modules, file=open(os.environ['MODULES'], 'w'))\n"
        "    real(code)\n"
        "os._exit = leave\natexit.register(lambda: leave(0))\n"
    )
    told = tmp_path / "modules"
    done = home.run("find", "spring", PYTHONPATH=str(tmp_path), MODULES=str(told))
    assert "run_a" in done.stdout
    modules = set(told.read_text().split())
    assert "floradl.index.finder" in modules
    heavy = {"floradl.library.folder", "floradl.app", "asyncio", "httpx", "structlog", "floradl.queue.folder"}
    assert not heavy & modules
    assert len(modules) <= 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kind", "picture"], "--kind: 'picture' is no kind of output"),
        (["--meta", "client"], "--meta: 'client' is not written like client=Atlas"),
        (["--since", "often"], "--since: 'often' is neither a duration"),
        (["--json", "--paths"], "give one of them"),
    ],
)
def test_find_says_what_is_wrong_with_an_option(home: Home, arguments: list[str], said: str) -> None:
    done = home.run("find", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_find_without_a_library_says_so(home: Home) -> None:
    done = home.run("find", "x")
    assert done.returncode == 5
    assert "the library's folder is not there" in done.stderr


_PLACE = """
import hashlib, os, sys
from pathlib import Path
import floradl.queue.folder
from floradl.commands.library_index import index_place
from floradl.config.load import Options, load_config
home, cache = sys.argv[1:]
config = load_config(Options(home=Path(home)), {}, system_file=Path("/nowhere"))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(index_place(config, {"XDG_CACHE_HOME": cache}))
"""


@pytest.mark.root
@pytest.mark.parametrize(("planted", "place"), [(None, "state"), ("index.sqlite3", "cache")])
def test_the_index_lies_in_a_volume_that_root_made_where_nobody_else_has_put_anything(
    planted: str | None, place: str
) -> None:
    with open_to_all() as public:
        for name, mode in (("state", 0o1777), ("cache", 0o777)):  # a new volume of a container is sticky
            (public / name).mkdir()
            (public / name).chmod(mode)
        if planted is not None:
            (public / "state" / planted).touch()
        command = [sys.executable, "-c", _PLACE, str(public), str(public / "cache")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert Path(done.stdout.strip()).relative_to(public).parts[0] == place
