"""`floradl verify`: what the library holds against what its sidecars say, and how it is brought back."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from studio import TEST_TIMEOUT, Home, check_library, command, served, wait_until

from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

OUTPUTS = (
    OutputSpec("a", "imageUrl", size=40_000),
    OutputSpec("b", "videoUrl", size=90_000),
    OutputSpec("words", "text", text="Bring the horizon down a little."),
)
PICTURE = "images/campaign/run_a-a.png"
CLIP = "videos/campaign/run_a-b.mp4"
WORDS = "text/campaign/run_a-words.txt"


RUNS = ("run_a", "run_b")


def add_runs(simulator: Simulator) -> None:
    for name in RUNS:
        simulator.add_run(
            name, technique="campaign", outputs=OUTPUTS, duration=0.1, created=simulator.now() - 5000
        )


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bring the two runs home, once for all tests: each takes a copy."""
    path = tmp_path_factory.mktemp("fetched")
    simulator = Simulator()
    with served(simulator):
        add_runs(simulator)
        home = Home(path, simulator)
        home.drop("campaign/run_a\ncampaign/run_b\n")
        assert home.run("once").returncode == 0
    return path


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    simulator = Simulator()
    add_runs(simulator)
    with served(simulator):
        yield simulator


@pytest.fixture
def home(tmp_path: Path, fetched: Path, simulator: Simulator) -> Home:
    """Return a home with two runs that are done, `campaign/run_a` and `campaign/run_b`."""
    return Home(tmp_path, simulator).take_over(fetched)


def damage(path: Path, *, quietly: bool = False) -> bytes:
    """Change one byte; `quietly` the file's time stays. Returns what it held."""
    before = path.read_bytes()
    stamp = path.stat()
    with path.open("r+b") as file:
        file.seek(len(before) // 2)
        file.write(bytes([before[len(before) // 2] ^ 1]))
    if quietly:
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    return before


def report(home: Home, *arguments: str, code: int, **settings: Any) -> dict[str, Any]:
    done = home.run("verify", "--json", *arguments, **settings)
    assert done.returncode == code, done.stderr + done.stdout
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def problems(told: dict[str, Any]) -> set[tuple[str, str]]:
    return {(each["problem"], each["path"]) for each in told["problems"]}


def test_a_library_in_order_is_said_to_be(home: Home) -> None:
    done = home.run("verify")
    assert done.returncode == 0
    assert done.stdout.startswith("6 files of 2 runs verified, ")
    assert done.stdout.endswith(": all as their sidecars say\n")
    told = report(home, code=0)
    assert (told["schema_version"], told["runs"], told["files"], told["problems"]) == (1, 2, 6, [])
    assert told["bytes"] == sum(map(len, home.files().values()))


def test_missing_is_told_apart_from_damaged(home: Home) -> None:
    damage(home.library / PICTURE, quietly=True)
    (home.library / CLIP).unlink()
    (home.library / WORDS).write_text("cut")
    done = home.run("verify")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"damaged     {PICTURE} (of campaign/run_a): its bytes are not")
    assert lines[1].startswith(f"missing     {CLIP} (of campaign/run_a)")
    assert lines[2].startswith(f"damaged     {WORDS} (of campaign/run_a): it has 3 bytes")
    assert "1 missing, 2 damaged (--repair fetches again what is damaged; of what is missing" in lines[3]
    told = report(home, code=1)
    assert problems(told) == {("damaged", PICTURE), ("missing", CLIP), ("damaged", WORDS)}
    assert told["problems"][0]["output_id"] == "a"
    assert told["problems"][0]["repair"] is None


def test_quick_sees_sizes_and_times_and_reads_nothing_else(home: Home) -> None:
    damage(home.library / PICTURE, quietly=True)
    damage(home.library / CLIP)
    with (home.library / WORDS).open("a") as words:
        words.write(" And up.")
    assert problems(report(home, "--quick", code=1)) == {("damaged", CLIP), ("damaged", WORDS)}
    assert problems(report(home, code=1)) >= {("damaged", PICTURE)}


def test_quick_does_not_take_a_touched_file_for_a_damaged_one(home: Home) -> None:
    (home.library / PICTURE).touch()
    report(home, "--quick", code=0)


def test_quick_knows_the_times_of_both_settings(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_now", technique="campaign", outputs=OUTPUTS, duration=0.1)
    assert home.run("get", "campaign/run_now", FLORADL_OUTPUT__MTIME="now").returncode == 0
    path = home.library / "images/campaign/run_now-a.png"
    for each in (path, home.library / PICTURE):
        before = each.stat().st_atime_ns
        os.utime(each, ns=(1, each.stat().st_mtime_ns))
        report(home, "--quick", code=0)
        assert each.stat().st_atime_ns == 1, f"it was read, and last before {before}"


def test_only_the_named_runs_are_looked_at(home: Home) -> None:
    damage(home.library / PICTURE)
    told = report(home, "run_b", code=0)
    assert told["runs"] == 1
    assert problems(report(home, "campaign/run_a", code=1)) == {("damaged", PICTURE)}


def test_a_named_run_that_has_no_sidecar_is_missing(home: Home) -> None:
    done = home.run("verify", "campaign/run_none")
    assert done.returncode == 1
    assert done.stdout.startswith("missing     campaign/run_none: it has no sidecar")


def test_since_goes_by_when_runs_finished(home: Home) -> None:
    path = home.library / "runs/campaign/run_a.json"
    sidecar = json.loads(path.read_bytes())
    long_ago = datetime.now(UTC) - timedelta(days=10)
    sidecar["times"]["finished_at"] = long_ago.isoformat()
    path.write_text(json.dumps(sidecar))
    damage(home.library / PICTURE)
    assert report(home, "--since", "7d", code=0)["runs"] == 1
    assert report(home, "--since", f"{long_ago + timedelta(days=2):%Y-%m-%d}", code=0)["runs"] == 1
    assert report(home, "--since", f"{long_ago - timedelta(days=2):%Y-%m-%d}", code=1)["runs"] == 2
    assert report(home, "--since", "2000-01-01T00:00:00Z", code=1)["runs"] == 2
    assert report(home, "--since", "30d", "run_b", code=0)["runs"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--since", "yesterday"), "--since"),
        (("--missing",), "--repair"),
        (("no run",), "run id"),
    ],
)
def test_a_wrong_command_line_is_told_with_2(home: Home, arguments: tuple[str, ...], words: str) -> None:
    done = home.run("verify", *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_the_files_of_a_forgotten_run_are_nobodys_loss(home: Home, simulator: Simulator) -> None:
    assert home.run("forget", "run_a").returncode == 0
    assert home.run("once").returncode == 0
    (home.library / PICTURE).unlink()
    damage(home.library / CLIP)
    told = report(home, code=0)
    assert (told["runs"], told["forgotten"]) == (1, 1)
    asked = len(simulator.requests)
    report(home, "--repair", "--missing", code=0)
    report(home, "--repair", "--missing", "run_a", code=0)
    assert len(simulator.requests) == asked


def test_files_that_no_sidecar_names_are_not_its_business(home: Home) -> None:
    (home.library / "images/holiday.jpg").write_bytes(b"mine")
    (home.library / "runs/notes.txt").write_text("mine")
    assert report(home, code=0)["files"] == 6


def test_links_are_not_followed(home: Home, tmp_path: Path) -> None:
    twin = tmp_path / "twin.png"
    (home.library / PICTURE).rename(twin)
    (home.library / PICTURE).symlink_to(twin)
    elsewhere = tmp_path / "elsewhere"
    (home.library / "videos/campaign").rename(elsewhere)
    (home.library / "videos/campaign").symlink_to(elsewhere)
    told = report(home, "run_a", code=1)
    assert problems(told) == {("damaged", PICTURE), ("damaged", CLIP)}


def test_a_folder_in_the_place_of_a_file_is_damage(home: Home) -> None:
    (home.library / PICTURE).unlink()
    (home.library / PICTURE).mkdir()
    assert problems(report(home, code=1)) == {("damaged", PICTURE)}


def test_a_sidecar_that_cannot_be_read_is_told(home: Home) -> None:
    (home.library / "runs/campaign/run_a.json").write_bytes(b'{"half')
    told = report(home, "--repair", code=1)
    assert problems(told) == {("damaged", "runs/campaign/run_a.json")}
    assert "'floradl get run_a'" in told["problems"][0]["repair"]["message"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("run_b.json")])
def test_something_that_is_not_a_file_in_a_sidecars_place_is_damage(
    home: Home, make: Callable[[Path], None]
) -> None:
    sidecar = home.library / "runs/campaign/run_a.json"
    sidecar.unlink()
    make(sidecar)
    assert ("damaged", "runs/campaign/run_a.json") in problems(report(home, code=1))


@pytest.mark.root
def test_a_file_that_this_user_may_not_read_is_not_called_damaged(home: Home) -> None:
    (home.library / PICTURE).chmod(0)
    # Root without its right to read everything: what the mode says counts.
    unprivileged = [f"--{kind}=-dac_override,-dac_read_search" for kind in ("inh-caps", "bounding-set")]
    done = subprocess.run(
        ["setpriv", *unprivileged, *command("verify", "--json", "--repair")],
        env=home.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert problems(told) == {("unreadable", PICTURE)}
    assert told["problems"][0]["repair"] is None


def test_where_the_library_is_not_there_nothing_is_called_missing(home: Home) -> None:
    (home.library / ".floradl-library").unlink()
    done = home.run("verify")
    assert done.returncode == 5
    assert "not mounted" in done.stderr
    assert done.stdout == ""


def test_what_is_damaged_is_fetched_again_and_what_is_gone_is_not(home: Home, simulator: Simulator) -> None:
    before = damage(home.library / PICTURE, quietly=True)
    (home.library / CLIP).unlink()
    asked = len(simulator.asked("media"))
    told = report(home, "--repair", code=1)
    assert (home.library / PICTURE).read_bytes() == before
    assert not (home.library / CLIP).exists()
    assert [record.output_id for record in simulator.asked("media")[asked:]] == ["a"]
    outcomes = {each["path"]: each["repair"] for each in told["problems"]}
    assert outcomes[PICTURE]["mended"]
    assert outcomes[CLIP] is None


def test_a_repair_that_leaves_out_what_is_gone_says_how_to_have_it_back(home: Home) -> None:
    damage(home.library / PICTURE)
    assert "--missing" not in home.run("verify", "--repair").stdout
    (home.library / CLIP).unlink()
    told = home.run("verify", "--repair").stdout
    assert "1 missing, 0 mended (--repair --missing fetches what is gone, too)" in told
    assert "too" not in home.run("verify", "--repair", "--missing").stdout


def test_the_damaged_file_is_kept_beside_the_fresh_one(home: Home) -> None:
    damage(home.library / PICTURE)
    broken = (home.library / PICTURE).read_bytes()
    done = home.run("verify", "--repair")
    assert done.returncode == 0, done.stderr
    assert f"mended      {PICTURE}: the damaged file is kept as {PICTURE}.damaged" in done.stdout
    assert (home.library / f"{PICTURE}.damaged").read_bytes() == broken
    assert "1 damaged, 1 mended" in done.stdout
    damage(home.library / PICTURE)
    told = report(home, "--repair", code=0)
    assert told["problems"][0]["repair"]["kept_as"] == f"{PICTURE}.damaged-2"
    assert (home.library / f"{PICTURE}.damaged").read_bytes() == broken
    report(home, code=0)


def test_a_repair_after_another_template_says_where_the_damaged_file_stays(home: Home) -> None:
    damage(home.library / PICTURE)
    done = home.run("verify", "--repair", FLORADL_OUTPUT__TEMPLATE="new/{run_id}-{output_id}{ext}")
    assert f"mended      new/run_a-a.png: the damaged file stays at {PICTURE}" in done.stdout


def test_what_is_gone_comes_back_with_missing(home: Home, simulator: Simulator) -> None:
    for path in (PICTURE, CLIP, WORDS):
        (home.library / path).unlink()
    told = report(home, "--repair", "--missing", code=0)
    assert all(each["repair"]["mended"] for each in told["problems"])
    check_library(home, simulator)
    report(home, code=0)


def test_words_come_back_from_the_sidecar_without_asking_anybody(home: Home, simulator: Simulator) -> None:
    (home.library / WORDS).unlink()
    asked = len(simulator.requests)
    report(home, "--repair", "--missing", code=0)
    assert (home.library / WORDS).read_text() == "Bring the horizon down a little."
    assert len(simulator.requests) == asked


def test_nothing_that_is_sound_is_fetched_again(home: Home, simulator: Simulator) -> None:
    asked = len(simulator.requests)
    report(home, "--repair", "--missing", code=0)
    assert len(simulator.requests) == asked


def test_other_bytes_at_the_server_come_under_another_name(home: Home, simulator: Simulator) -> None:
    damage(home.library / PICTURE)
    broken = (home.library / PICTURE).read_bytes()
    simulator.faults.add(Fault(match=Match(output="a"), do=Do(change_content=True)))
    told = report(home, "run_a", "--repair", code=0)
    outcome = told["problems"][0]["repair"]
    assert outcome["path"] == "images/campaign/run_a-a-2.png"
    assert "other bytes" in outcome["message"]
    assert (home.library / PICTURE).read_bytes() == broken
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert sidecar["result"] == "complete"
    assert [output["path"] for output in sidecar["outputs"]] == [outcome["path"], CLIP, WORDS]
    report(home, code=0)


def test_what_cannot_be_had_leaves_file_and_sidecar_as_they_are(home: Home, simulator: Simulator) -> None:
    damage(home.library / PICTURE)
    broken = (home.library / PICTURE).read_bytes()
    stamp = (home.library / "runs/campaign/run_a.json").read_bytes()
    simulator.faults.add(Fault(match=Match(output="a"), do=Do(status=451)))
    done = home.run("verify", "--repair")
    assert done.returncode == 1
    assert f"not mended  {PICTURE}: the media host" in done.stdout
    assert "0 mended" in done.stdout
    assert (home.library / PICTURE).read_bytes() == broken
    assert (home.library / "runs/campaign/run_a.json").read_bytes() == stamp
    assert not (home.library / f"{PICTURE}.damaged").exists()


def test_a_refused_key_ends_a_repair_with_4(home: Home) -> None:
    damage(home.library / PICTURE)
    done = home.run("verify", "--repair", FLORA_API_KEY="sk_test_wrong")
    assert done.returncode == 4
    assert "not mended" in done.stdout
    assert "sk_test_wrong" not in done.stdout + done.stderr


def test_verifying_alone_needs_no_key(home: Home) -> None:
    assert home.run("verify", FLORA_API_KEY="").returncode == 0


def test_a_repair_beside_a_daemon_does_no_harm(home: Home, simulator: Simulator) -> None:
    damage(home.library / PICTURE)
    with home.daemon():
        simulator.add_run("run_c", technique="campaign", outputs=OUTPUTS, duration=1)
        home.drop("campaign/run_c\n", "c.txt")
        report(home, "--repair", code=0)
        home.finished("campaign/run_c")
        wait_until(lambda: home.status()["counts"]["done"] == 3)
    (home.library / f"{PICTURE}.damaged").unlink()
    check_library(home, simulator)


def test_outputs_that_share_an_id_are_told_apart(home: Home) -> None:
    sidecar = json.loads((home.library / "runs/campaign/run_a.json").read_bytes())
    first, second = home.library / PICTURE, home.library / "images/campaign/run_a-a-2.png"
    second.write_bytes(b"another picture, whose file comes second")
    twin = sidecar["outputs"][0] | {"path": "images/campaign/run_a-a-2.png", "bytes": 40, "sha256": None}
    sidecar["outputs"] = [sidecar["outputs"][0], twin]
    (home.library / "runs/campaign/run_a.json").write_text(json.dumps(sidecar))
    before = damage(first)
    report(home, "run_a", "--repair", code=0)
    assert first.read_bytes() == before
    assert second.read_bytes() == b"another picture, whose file comes second"


def test_a_terminal_shows_how_far_it_is(home: Home) -> None:
    big = home.library / PICTURE
    size = 200 << 20
    with big.open("r+b") as file:
        file.truncate(size)
    path = home.library / "runs/campaign/run_a.json"
    sidecar = json.loads(path.read_bytes())
    sidecar["outputs"][0]["bytes"] = size
    path.write_text(json.dumps(sidecar))
    ours, theirs = pty.openpty()
    seen = bytearray()

    def listen() -> None:
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:
                return
            seen.extend(data)

    listener = threading.Thread(target=listen)
    listener.start()
    done = subprocess.run(
        command("verify"), env=home.environ, stderr=theirs, stdout=subprocess.PIPE, text=True, check=False
    )
    os.close(theirs)
    listener.join()
    os.close(ours)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    shown = seen.decode()
    assert "verifying" in shown
    assert "of 210 MB" in shown
    assert shown.endswith("\r\x1b[K")


@pytest.fixture
def reading(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """A verification in the midst of a file that takes hours."""
    big = home.library / PICTURE
    size = 4 << 40  # a hole, so no disk is filled
    with big.open("r+b") as file:
        file.truncate(size)
    path = home.library / "runs/campaign/run_a.json"
    sidecar = json.loads(path.read_bytes())
    sidecar["outputs"][0]["bytes"] = size
    path.write_text(json.dumps(sidecar))
    process = subprocess.Popen(command("verify"), env=home.environ, stderr=subprocess.DEVNULL)

    def is_open() -> bool:
        with suppress(FileNotFoundError):  # one was closed meanwhile
            return str(big) in map(os.path.realpath, Path(f"/proc/{process.pid}/fd").iterdir())
        return False

    try:
        wait_until(is_open)
        yield process
    finally:
        process.kill()
        process.wait()


def test_an_interrupted_verification_ends_with_130_in_the_midst_of_a_file(
    reading: subprocess.Popen[bytes],
) -> None:
    reading.send_signal(signal.SIGINT)
    assert reading.wait(TEST_TIMEOUT) == 130


def test_an_interrupt_that_another_thread_got_ends_a_verification(reading: subprocess.Popen[bytes]) -> None:
    """As does one that comes right before the main thread waits: neither wakes it."""
    threads = wait_until(lambda: {int(each.name) for each in Path(f"/proc/{reading.pid}/task").iterdir()})
    other = (threads - {reading.pid}).pop()
    assert ctypes.CDLL(None).tgkill(reading.pid, other, signal.SIGINT) == 0
    assert reading.wait(TEST_TIMEOUT) == 130


# --- what no sidecar names --------------------------------------------------------------------------------


def test_files_that_no_sidecar_names_are_listed_and_no_fault(home: Home) -> None:
    for name in ("images/campaign/orphan.png", "notes.md", "images/a \x1b[31mb.png"):
        (home.library / name).write_bytes(b"x")
    (home.library / "images/link.png").symlink_to("campaign/run_a-a.png")
    done = home.run("verify")
    assert done.returncode == 0
    unknown = [line for line in done.stdout.splitlines() if line.startswith("unknown")]
    assert [line.split(":")[0].split()[-1] for line in unknown] == [
        "notes.md",
        r"\x1b[31mb.png",
        "images/link.png",
        "images/campaign/orphan.png",
    ]
    assert "\x1b" not in done.stdout
    assert "all as their sidecars say; 4 files that no sidecar names" in done.stdout
    answer = json.loads(home.run("verify", "--quick", "--json").stdout)
    assert "images/campaign/orphan.png" in answer["unknown"]
    assert answer["problems"] == []


def test_what_systems_strew_is_no_unknown_file(home: Home) -> None:
    damage(home.library / PICTURE)
    strewn = (
        ".DS_Store",
        "images/.hidden.png",
        "images/._run_a-a.png",
        "images/campaign/Thumbs.db",
        "images/campaign/.run_a-x~0-0.part",
        "images/campaign/@eaDir/run_a-a.png/SYNOPHOTO_THUMB_M.jpg",
        "#recycle/old.png",
        "lost+found/1",
        "System Volume Information/x",
        f"{PICTURE}.damaged-2",
        f"{PICTURE}.xmp",
        "runs/campaign/run_x.json.unreadable",
    )
    for name in strewn:
        (home.library / name).parent.mkdir(parents=True, exist_ok=True)
        (home.library / name).write_bytes(b"x")
    assert home.run("verify", "--repair").returncode == 0
    assert json.loads(home.run("verify", "--json").stdout)["unknown"] == []


def test_files_of_a_forgotten_run_are_known(home: Home) -> None:
    assert home.run("forget", "campaign/run_a").returncode == 0
    assert home.run("once").returncode == 0
    assert json.loads(home.run("verify", "--json").stdout)["unknown"] == []


def test_part_of_the_library_tells_of_no_unknown_files(home: Home) -> None:
    for arguments in (("campaign/run_a",), ("--since", "100d")):
        (home.library / "notes.md").write_bytes(b"x")
        assert json.loads(home.run("verify", "--json", *arguments).stdout)["unknown"] == []


def test_a_file_whose_run_still_goes_on_is_known(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_c", technique="campaign", outputs=OUTPUTS, duration=0.1)
    simulator.faults.add(Fault(match=Match(output="b"), do=Do(stall_after="50%")))
    home.drop("campaign/run_c")
    with home.daemon():
        wait_until((home.library / "images/campaign/run_c-a.png").exists)
        wait_until((home.library / "text/campaign/run_c-words.txt").exists)
        assert json.loads(home.run("verify", "--json").stdout)["unknown"] == []


def test_a_repair_whose_sidecar_another_process_is_writing_is_told_as_not_mended(home: Home) -> None:
    damage(home.library / PICTURE)
    with (home.library / "runs/campaign/.run_a.json.part").open("wb") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        done = home.run("verify", "--repair")
    assert done.returncode == 1, done.stderr
    assert "another floradl writes the same file at this moment" in done.stdout


def test_a_file_that_was_moved_is_found_by_its_hash_without_the_network(home: Home) -> None:
    (home.library / "best").mkdir()
    (home.library / PICTURE).rename(home.library / "best/Cover.PNG")
    (home.library / "best/other.png").write_bytes(b"x" * 40_000)  # of the same size
    assert problems(report(home, code=1)) == {("missing", PICTURE)}
    done = home.run("verify", "--repair", FLORA_BASE_URL="http://127.0.0.1:9/api/v1")
    assert done.returncode == 0
    assert "mended      best/Cover.PNG: it was moved, and its sidecar says so now" in done.stdout
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert sidecar["outputs"][0]["path"] == "best/Cover.PNG"
    assert report(home, code=0)["unknown"] == ["best/other.png"]
    assert home.run("relayout").returncode == 0
    assert (home.library / PICTURE).exists()


def test_a_sidecar_that_was_edited_is_seen_and_its_file_found(home: Home) -> None:
    sidecar = home.library / "runs/campaign/run_a.json"
    sidecar.write_text(sidecar.read_text().replace(PICTURE, "images/mistyped.png"))
    told = report(home, code=1)
    assert problems(told) == {("missing", "images/mistyped.png")}
    assert told["unknown"] == [PICTURE]
    assert home.run("verify", "--repair").returncode == 0
    assert report(home, code=0)["unknown"] == []


def swap(home: Home, one: str, other: str) -> None:
    """Have two sidecars name each other's picture, as by a slip of whoever edits them."""
    paths = [home.library / f"runs/campaign/{name}.json" for name in (one, other)]
    names = [f"images/campaign/{name}-a.png" for name in (one, other)]
    for path, mine, theirs in zip(paths, names, reversed(names), strict=True):
        path.write_text(path.read_text().replace(mine, theirs))


def test_sidecars_whose_paths_were_swapped_are_repaired_without_a_download(
    home: Home, simulator: Simulator
) -> None:
    swap(home, "run_a", "run_b")
    before = home.files()
    assert problems(report(home, code=1)) == {
        ("damaged", PICTURE),
        ("damaged", PICTURE.replace("run_a", "run_b")),
    }
    told = report(home, "--repair", code=0, FLORA_BASE_URL="http://127.0.0.1:9/api/v1")
    assert {each["repair"]["path"] for each in told["problems"]} == {
        PICTURE,
        PICTURE.replace("run_a", "run_b"),
    }
    assert home.files() == before
    check_library(home, simulator)


def test_a_sidecar_that_names_another_runs_file_finds_its_own(home: Home, simulator: Simulator) -> None:
    sidecar = home.library / "runs/campaign/run_a.json"
    sidecar.write_text(sidecar.read_text().replace(PICTURE, PICTURE.replace("run_a", "run_b")))
    report(home, "--repair", code=0, FLORA_BASE_URL="http://127.0.0.1:9/api/v1")
    check_library(home, simulator)


def test_a_repair_sets_no_file_aside_that_is_another_runs(home: Home, simulator: Simulator) -> None:
    """By a template like this the fresh bytes want the very name that the other's file has."""
    home.environ["FLORADL_OUTPUT__TEMPLATE"] = "{folder}/{technique}{ext}"
    assert home.run("relayout").returncode == 0
    mine, other = "images/campaign-2.png", "images/campaign.png"
    runs = [home.library / f"runs/campaign/{name}.json" for name in RUNS]
    sidecar = next(path for path in runs if mine in path.read_text())
    sidecar.write_text(sidecar.read_text().replace(mine, other))
    (home.library / mine).unlink()
    report(home, "--repair", code=0)
    check_library(home, simulator)


def test_a_file_that_two_sidecars_name_is_found_for_both_where_it_was_moved(home: Home) -> None:
    """As libraries of earlier versions may have it."""
    lines = (home.library / "runs/campaign/run_a.json").read_text().splitlines()
    twin = "\n".join(lines).replace("run_a", "run_c").replace("run_c-", "run_a-")
    (home.library / "runs/campaign/run_c.json").write_text(twin)
    (home.library / PICTURE).rename(home.library / "away.png")
    report(home, "--repair", code=0)
    assert report(home, code=0)["problems"] == []


def test_xmp_goes_with_a_file_that_was_moved_and_with_one_that_was_deleted(home: Home) -> None:
    home.environ["FLORADL_OUTPUT__XMP"] = "true"
    assert report(home, "--repair", "--quick", code=0)["companions"] == 6
    (home.library / CLIP).unlink()
    (home.library / PICTURE).rename(home.library / "away.png")
    assert home.run("verify", "--accept-missing").returncode == 1
    assert home.run("verify", "--repair").returncode == 0
    assert report(home, code=0)["unknown"] == []
    assert (home.library / "away.png.xmp").exists()
    assert not (home.library / f"{CLIP}.xmp").exists()


def test_what_was_deleted_is_accepted_and_what_was_moved_is_not(home: Home) -> None:
    (home.library / CLIP).unlink()
    (home.library / PICTURE).rename(home.library / "away.png")
    done = home.run("verify", "--accept-missing")
    assert done.returncode == 1
    assert f"accepted    {CLIP}: its sidecar says that it was removed" in done.stdout
    assert "not mended  away.png: it lies there now" in done.stdout
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert sidecar["outputs"][1]["removed"]["reason"] == "missing"
    assert sidecar["outputs"][0]["path"] == PICTURE
    (home.library / "away.png").rename(home.library / PICTURE)
    told = report(home, "--repair", "--missing", code=0)
    assert (told["removed"], told["problems"]) == (1, [])
    assert not (home.library / CLIP).exists()
    assert home.run("verify", "--accept-missing", "--repair").returncode == 2
