"""Names that were made to do harm, and links that were planted: all stays in the library, and comes home."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from studio import Home, check_library, wait_until

from floradl.fs.names import fold
from floradl.models import bare
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator
from floradl.sources.inbox import Inbox

TRAVERSALS = (
    "..",
    ".",
    "...",
    "../../../../etc/cron.d/x",
    "/etc/passwd",
    "a/../../b",
    "..\\..\\x",
    "C:\\x",
    "%2e%2e%2f",
)
DEVICES = ("CON", "con.txt", "aux.", "NUL ", "lpt1", "COM¹", "conin$")
STEERING = (
    "a\0b",
    "\0",
    "nl\nname",
    "tab\tname",
    "\x1b[2J\x1b]0;x\x07",
    "\u202egnp.exe",
    "\u2066x\u2069",
    "\u200b",
    "\ufeffx",
)
LONG = (
    "\U0001f600" * 300,
    "a" * 300,
    "e\u0301" * 200,
    "x" * 260 + ".png",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 40,
)
TWINS = (
    "Case",
    "case",
    "CASE",
    "é",
    "e\u0301",
    "É",
    "ß",
    "ss",
    "SS",
    "ﬁ",
    "fi",
    "\u212b",
    "\u00c5",
    "A\u030a",
    "name",
    "name.",
    "name ",
)
REFUSED = (
    'a<b>c:"d|e?f*g',
    "\uf022",
    "\ufffe",
    "\ue000",
    "\u2028",
    "~",
    "-rf",
    ".hidden",
    "$(reboot)",
    "`id`",
    "a;b&c",
    "#x",
    "x~0123abcd",
    "",
)
OURS = ("runs", ".floradl-library", "x.part", ".x.01234567-89abcdef.part", "images", "_unknown", "x.json")
HOSTILE = (*TRAVERSALS, *DEVICES, *STEERING, *LONG, *TWINS, *REFUSED, *OURS)
CONTENT_TYPES = (
    "../../etc/passwd", "image/../../x", "a" * 4000,
    "application/x-sh", "image/png, text/html", ";", "/", "\u00e9/\u00e9",
    "application/vnd.\U0001f600", "image/svg+xml; charset=../..", "text/html",
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, simulator: Simulator) -> Home:
    (tmp_path / "home").mkdir()
    return Home(tmp_path / "home", simulator)


def check_names(home: Home) -> None:
    """Hold every path below the library against what all systems take; none may be another's twin."""
    seen: dict[str, str] = {}
    for folder, folders, files in os.walk(home.library):
        for name in (*folders, *files):
            path = os.path.join(os.path.relpath(folder, home.library), name)  # noqa: PTH118 - hostile: as text
            assert len(os.fsencode(name)) <= 255
            assert not set(name) & set('<>:"\\|?*')
            assert all(unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Cn"} for char in name)
            assert name == ".floradl-library" or not name.startswith((".", "-"))
            assert not name.endswith((".", " "))
            assert seen.setdefault(fold(path), path) == path
        assert not Path(folder).is_symlink()


def outside(home: Home) -> set[str]:
    """Return all that stands beside the home folder."""
    return {path.name for path in home.path.parent.iterdir()} - {home.path.name}


def runs_of(*runs: dict[str, str]) -> str:
    return json.dumps({"runs": runs})


def test_hostile_output_ids_and_content_types_become_files_of_their_own(
    home: Home, simulator: Simulator
) -> None:
    named = [OutputSpec(name, "holoUrl", body=f"{name!a} body".encode()) for name in HOSTILE]
    again = [OutputSpec(name, "holoUrl", body=f"{name!a} other".encode()) for name in ("name", "..", "")]
    texts = [OutputSpec(name, "text", text=f"{name!a} says") for name in HOSTILE]
    typed = [
        OutputSpec(f"typed-{number}", "holoUrl", body=b"%d" % number, content_type=name)
        for number, name in enumerate(CONTENT_TYPES)
    ]
    run = simulator.add_run(
        "run_a", technique="campaign", duration=0, outputs=[*named, *again, *texts, *typed]
    )
    home.drop(str(run))
    done = home.run("once", "-v")
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert [output for output in sidecar["outputs"] if output["error"]] == []
    assert done.returncode == 0, done.stderr
    assert [output["output_id"] for output in sidecar["outputs"]] == [
        output.output_id for output in (*named, *again, *texts, *typed)
    ]
    check_library(home, simulator)
    check_names(home)
    assert outside(home) == set()


def test_hostile_types_become_folders_of_their_own(home: Home, simulator: Simulator) -> None:
    types = [name for name in HOSTILE if name not in {"text", ""}]
    outputs = [OutputSpec(f"o{n}", name, body=b"%d" % n) for n, name in enumerate(types)]
    home.drop(str(simulator.add_run("run_a", technique="campaign", duration=0, outputs=outputs)))
    done = home.run("once", FLORADL_OUTPUT__TEMPLATE="{type}/{output_id}{ext}")
    assert done.returncode == 0, done.stderr
    assert len(home.files()) == len(types)
    check_library(home, simulator)
    check_names(home)


def hostile_runs(simulator: Simulator) -> tuple[dict[str, str], ...]:
    """Script runs whose technique, run id and label are hostile, as far as a reference may be."""
    runs: list[dict[str, str]] = []
    for number, name in enumerate(HOSTILE):
        part = "".join(char for char in name if not char.isspace() and char not in "/\\?#\0\x1b\x07")[:200]
        technique = part if part not in {"", ".", ".."} else f"{part}x"
        wanted = bare(f"run_{part}")  # what is not seen falls away where a run is named
        taken = {run["run"] for run in runs}
        run_id = wanted if number % 2 and wanted != "run_" and wanted not in taken else f"run_{number}"
        simulator.add_run(
            run_id,
            technique=technique,
            duration=0,
            outputs=[OutputSpec("a", "holoUrl", body=f"{number}".encode())],
        )
        runs.append({"technique": technique, "run": run_id, "label": name.replace("\0", "")})
    return tuple(runs)


@pytest.mark.parametrize(
    "template", ["{folder}/{technique}/{label}/{output_id}{ext}", "{technique}/{run_id}{ext}", "{label}"]
)
def test_hostile_techniques_run_ids_and_labels_become_files_of_their_own(
    home: Home, simulator: Simulator, template: str
) -> None:
    runs = hostile_runs(simulator)
    home.drop(runs_of(*runs))
    done = home.run("once", "-v", FLORADL_OUTPUT__TEMPLATE=template)
    assert done.returncode == 0, done.stderr
    assert home.status()["counts"]["done"] == len(runs) == len(home.files())
    check_library(home, simulator)
    check_names(home)
    assert outside(home) == set()


def test_runs_with_hostile_names_are_known_again_when_the_state_is_lost(
    home: Home, simulator: Simulator
) -> None:
    runs = hostile_runs(simulator)
    home.drop(runs_of(*runs))
    assert home.run("once").returncode == 0
    shutil.rmtree(home.state)
    before = len(simulator.requests)
    home.drop(runs_of(*runs))
    assert home.run("once").returncode == 0
    assert len(simulator.requests) == before


def test_what_is_shown_of_hostile_names_steers_no_terminal(home: Home, simulator: Simulator) -> None:
    runs = hostile_runs(simulator)
    home.drop(runs_of(*runs))
    for run in runs[::5]:
        simulator.add_run(
            f"{run['run']}-bad",
            technique=run["technique"],
            duration=0,
            fail=("\x1b[31m", "\x1b]0;x\x07\u202e"),
        )
        home.drop(runs_of({**run, "run": f"{run['run']}-bad"}), f"{run['run'][:40]}.json")
    told = [home.run("once", FLORADL_LOG__FORMAT="console"), home.run("status"), home.run("status", "--json")]
    told.append(home.run("get", "--", *(run["run"] for run in runs)))
    for done in told:
        text = done.stdout + done.stderr
        assert text
        assert {char for char in text if not char.isprintable()} <= {"\n"}


# Links


@pytest.fixture
def beyond(tmp_path: Path) -> Path:
    """A folder that no link may lead to; `snapshot` tells what is in it."""
    folder = tmp_path / "beyond"
    (folder / "below").mkdir(parents=True)
    (folder / "file").write_text("campaign/run_beyond\n")
    (folder / "run_a.json").write_text("{}")
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    return folder


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("target", ["file", "below", "nothing", "/dev/zero"])
def test_a_link_in_the_inbox_is_refused_and_not_followed(home: Home, beyond: Path, target: str) -> None:
    home.inbox.mkdir(parents=True)
    (home.inbox / "job").symlink_to(beyond / target)
    before = snapshot(beyond)
    assert home.run("once").returncode == 3
    assert (home.inbox / "rejected" / "job").is_symlink()
    assert "this is a link" in (home.inbox / "rejected" / "job.error.txt").read_text()
    assert sum(home.status()["counts"].values()) == 0
    assert snapshot(beyond) == before


@pytest.mark.parametrize("place", ["accepted", "rejected"])
def test_job_files_are_not_put_away_through_a_link(
    home: Home, simulator: Simulator, beyond: Path, place: str
) -> None:
    with home.daemon():
        shutil.rmtree(home.inbox / place)
        (home.inbox / place).symlink_to(beyond)
        before = snapshot(beyond)
        run = simulator.add_run("run_a", duration=0)
        home.drop(str(run) if place == "accepted" else "this is no run", "planted")
        trouble = wait_until(lambda: home.events("inbox_trouble"))[0]["message"]
        assert str(home.inbox / place) in trouble
        assert "a link" in trouble
        assert snapshot(beyond) == before
        (home.inbox / place).unlink()
        home.drop(str(simulator.add_run("run_b", duration=0)), "good")
        home.finished("art-directors-critique/run_b")
        wait_until((home.inbox / place / "planted").exists)
    assert snapshot(beyond) == before


@pytest.mark.parametrize("place", ["accepted", "rejected"])
def test_a_link_in_place_of_the_inboxs_own_folders_is_named_at_the_start(
    home: Home, beyond: Path, place: str
) -> None:
    home.inbox.mkdir(parents=True)
    (home.inbox / place).symlink_to(beyond)
    before = snapshot(beyond)
    done = home.run("once")
    assert done.returncode == 2
    assert f"{home.inbox / place} is a link" in done.stderr
    assert snapshot(beyond) == before


@pytest.mark.parametrize("place", ["accepted", "rejected"])
def test_old_files_beyond_a_link_are_not_swept_away(tmp_path: Path, beyond: Path, place: str) -> None:
    inbox = Inbox(tmp_path / "inbox", keep=0.0, wall=lambda: 4e9)
    inbox.prepare()
    (tmp_path / "inbox" / place).rmdir()
    (tmp_path / "inbox" / place).symlink_to(beyond)
    before = snapshot(beyond)
    (trouble,) = inbox.sweep()
    assert place in trouble
    assert snapshot(beyond) == before


@pytest.mark.parametrize("planted", ["images", "images/campaign"])
def test_no_output_goes_through_a_planted_folder_and_the_sidecar_says_why(
    home: Home, simulator: Simulator, beyond: Path, planted: str
) -> None:
    new_library(home)
    (home.library / planted).parent.mkdir(exist_ok=True)
    (home.library / planted).symlink_to(beyond)
    before = snapshot(beyond)
    run = simulator.add_run(
        "run_a",
        technique="campaign",
        duration=0,
        outputs=[OutputSpec("picture"), OutputSpec("w", "text", text="x")],
    )
    home.drop(str(run))
    assert home.run("once").returncode == 3
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert sidecar["result"] == "partial"
    assert sidecar["outputs"][0]["error"]["code"] == "storage"
    assert "link" in sidecar["outputs"][0]["error"]["message"]
    assert snapshot(beyond) == before
    (home.library / planted).unlink()
    assert home.run("retry", "run_a").returncode == 0
    assert home.run("once").returncode == 0
    check_library(home, simulator)


@pytest.mark.parametrize("planted", ["runs", "runs/campaign"])
def test_no_sidecar_goes_through_a_planted_folder_and_status_says_why(
    home: Home, simulator: Simulator, beyond: Path, planted: str
) -> None:
    new_library(home)
    (home.library / planted).parent.mkdir(exist_ok=True)
    (home.library / planted).symlink_to(beyond)
    before = snapshot(beyond)
    home.drop(
        str(simulator.add_run("run_a", technique="campaign", duration=0, outputs=[OutputSpec("picture")]))
    )
    with home.daemon():
        (run,) = wait_until(lambda: [run for run in home.status()["runs"] if run["error"]])
    assert run["error"]["code"] == "storage"
    assert "link" in run["error"]["message"]
    assert snapshot(beyond) == before
    (home.library / planted).unlink()
    assert home.run("once").returncode == 0
    check_library(home, simulator)


TAG = hashlib.sha256(b"run_a\0picture").hexdigest()[:8]
PARTS = (
    "images/campaign/run_a-picture.png",
    f"images/campaign/.run_a-picture.{TAG}-00000000.part",
    "runs/campaign/run_a.json",
    "runs/campaign/.run_a.json.part",
)


@pytest.mark.parametrize("planted", PARTS, ids=["file", "part", "sidecar", "sidecar's part"])
@pytest.mark.parametrize(
    ("target", "hard"), [("run_a.json", False), ("nothing", False), ("below", False), ("run_a.json", True)]
)
def test_nothing_is_written_through_a_link_under_a_name_of_ours(
    home: Home, simulator: Simulator, beyond: Path, planted: str, target: str, *, hard: bool
) -> None:
    new_library(home)
    path = home.library / planted
    path.parent.mkdir(parents=True)
    if hard:
        path.hardlink_to(beyond / target)
    else:
        path.symlink_to(beyond / target)
    before = snapshot(beyond)
    # Without a strong validator the part's name is known beforehand.
    simulator.faults.add(Fault(do=Do(weak_etag=True), match=Match(host="media")))
    home.drop(
        str(simulator.add_run("run_a", technique="campaign", duration=0, outputs=[OutputSpec("picture")]))
    )
    done = home.run("once")
    assert done.returncode == 0, done.stderr
    assert snapshot(beyond) == before
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    saved = home.library / sidecar["outputs"][0]["path"]
    served_run = simulator.run("run_a")
    assert served_run is not None
    assert saved.read_bytes() == served_run.body(0).read()
    assert not saved.is_symlink()


def new_library(home: Home) -> None:
    home.library.mkdir(parents=True)
    (home.library / ".floradl-library").touch()
