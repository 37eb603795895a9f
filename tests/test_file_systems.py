"""The library on file systems of other kinds, and beside files of other people."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounting import in_memory, mounted, unmount
from studio import TEST_TIMEOUT, Home, check_library, command, served, wait_until

from floradl.fs.folders import open_root
from floradl.fs.mounts import Capabilities, probe
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

OUTPUTS = (
    OutputSpec("a", "imageUrl", size=40_000),
    OutputSpec("b", "videoUrl", size=300_000),
    OutputSpec("words", "text", text="Lower."),
)
PICTURE = "images/campaign/run_a-a.png"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    simulator = Simulator()
    simulator.add_run("run_a", technique="campaign", outputs=OUTPUTS, duration=0.1)
    with served(simulator):
        yield simulator


# --- other file systems -------------------------------------------------------------------------------------


def needs(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")


@contextmanager
def image(path: Path, *maker: str) -> Iterator[str]:
    """Make a file system in a file, and give the loop device that it is on."""
    with path.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run([*maker, path], check=True, capture_output=True)
    done = subprocess.run(["losetup", "-f", "--show", path], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"may not have a loop device: {done.stderr.strip()}")
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


@contextmanager
def fused(where: Path, *server: str | Path) -> Iterator[None]:
    """Mount with a FUSE file system's own program while the block lasts."""
    where.mkdir(exist_ok=True)
    done = subprocess.run([*server, where], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"may not mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        # The program may have the folder open for a moment longer than the work.
        wait_until(
            lambda: subprocess.run(["umount", where], capture_output=True, check=False).returncode == 0
        )


@contextmanager
def exfat(home: Home) -> Iterator[None]:
    """No links of any kind, no modes, no case: what a memory card is like."""
    needs("mkfs.exfat", "mount.exfat-fuse")
    with (
        image(home.path / "exfat.img", "mkfs.exfat") as device,
        fused(home.library, "mount.exfat-fuse", device),
    ):
        yield


@contextmanager
def ntfs(home: Home) -> Iterator[None]:
    needs("mkntfs", "ntfs-3g")
    with (
        image(home.path / "ntfs.img", "mkntfs", "-q", "-F", "-f") as device,
        fused(home.library, "ntfs-3g", device),
    ):
        yield


@contextmanager
def bindfs(home: Home) -> Iterator[None]:
    needs("bindfs")
    (home.path / "below").mkdir()
    with fused(home.library, "bindfs", home.path / "below"):
        yield


@contextmanager
def mergerfs(home: Home) -> Iterator[None]:
    """Two disks that look like one."""
    needs("mergerfs")
    disks = [home.path / name for name in ("one", "two")]
    for disk in disks:
        disk.mkdir()
    with fused(home.library, "mergerfs", "-o", "category.create=rand", ":".join(map(str, disks))):
        yield


@contextmanager
def memory(home: Home) -> Iterator[None]:
    with in_memory(home.library, "16m"):
        yield


KINDS = {
    "exfat": (exfat, Capabilities(safe_rename=False, links=False, folder_sync=True)),
    "ntfs": (ntfs, Capabilities(safe_rename=False, links=True, folder_sync=True)),
    "bindfs": (bindfs, Capabilities(safe_rename=False, links=True, folder_sync=True)),
    "mergerfs": (mergerfs, Capabilities(safe_rename=False, links=True, folder_sync=True)),
    "tmpfs": (memory, Capabilities(safe_rename=True, links=True, folder_sync=True)),
}


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_job_works_on(kind: str, home: Home, simulator: Simulator) -> None:
    """From the first start to a retry, with a foreign file in the way and a part file to continue."""
    kept_here, abilities = KINDS[kind]
    simulator.faults.add(Fault(match=Match(output="b"), do=Do(cut_after="50%"), times=1))
    with kept_here(home):
        with open_root(home.library) as root:
            assert probe(root) == abilities
        foreign = home.library / PICTURE
        foreign.parent.mkdir(parents=True)
        foreign.write_bytes(b"somebody else's")
        with home.daemon() as process:
            home.drop("campaign/run_a\n")
            sidecar = home.finished("campaign/run_a")
            told = home.events("library_weaker")
            process.terminate()
            process.wait(TEST_TIMEOUT)
        assert sidecar["result"] == "complete"
        assert sidecar["outputs"][0]["path"] == "images/campaign/run_a-a-2.png"
        assert foreign.read_bytes() == b"somebody else's"
        foreign.unlink()
        assert [
            record.range is not None for record in simulator.asked("media") if record.output_id == "b"
        ] == [
            False,
            True,
        ]
        check_library(home, simulator)
        assert len(told) == len(abilities.weaknesses())
        line = next(line for line in home.run("check").stdout.splitlines() if " library: " in line)
        for weakness in abilities.weaknesses():
            assert line.startswith("warn")
            assert weakness in line
        assert home.run("verify").returncode == 0
        assert home.run("verify", "--quick").returncode == 0
        assert home.run("retry", "run_a").returncode == 0
        assert home.run("once").returncode == 0
        assert len(home.files()) == len(OUTPUTS)  # though the picture's own name is free again
        assert not [path for path in home.library.rglob(".*") if path.name != ".floradl-library"]
        assert home.status()["counts"]["done"] == 1


@pytest.mark.root
@pytest.mark.parametrize("kind", ["exfat", "bindfs"])
def test_a_damaged_file_is_kept_and_replaced_on(kind: str, home: Home) -> None:
    kept_here, _ = KINDS[kind]
    with kept_here(home):
        assert home.run("get", "campaign/run_a").returncode == 0
        before = (home.library / PICTURE).read_bytes()
        (home.library / PICTURE).write_bytes(before[:-1] + b"!")
        done = home.run("verify", "--repair")
        assert done.returncode == 0, done.stdout
        assert (home.library / PICTURE).read_bytes() == before
        assert (home.library / f"{PICTURE}.damaged").read_bytes() == before[:-1] + b"!"


@pytest.mark.root
def test_names_that_differ_in_case_only_are_kept_apart_where_case_does_not_count(
    home: Home, simulator: Simulator
) -> None:
    outputs = tuple(OutputSpec(name, "imageUrl", size=20_000) for name in ("Cover", "cover", "COVER"))
    simulator.add_run("run_x", technique="campaign", outputs=outputs, duration=0.1)
    simulator.add_run("run_X", technique="Campaign", outputs=outputs, duration=0.1)
    with exfat(home):
        assert home.run("get", "campaign/run_x", "Campaign/run_X").returncode == 0
        check_library(home, simulator)
        assert len(home.files()) == 6
        assert home.run("get", "campaign/run_x", "Campaign/run_X").returncode == 0
        assert len(simulator.asked("media")) == 6


def test_where_a_folder_cannot_be_flushed_it_is_said_and_work_goes_on(
    home: Home, simulator: Simulator
) -> None:
    needs("strace")
    home.library.mkdir()
    folders = [home.library, home.library / "images", home.library / "images/campaign"]
    filters = [f"--trace-path={folder}" for folder in folders]
    home.drop("campaign/run_a\n")
    log = home.path / "strace.log"
    done = subprocess.run(
        ["strace", "-f", "-o", log, *filters, "-e", "inject=fsync:error=EINVAL", *command("once", "-v")],
        env=home.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if "PTRACE" in done.stderr:
        pytest.skip("may not trace")
    assert done.returncode == 0, done.stderr
    assert "INJECTED" in log.read_text()
    assert "library_weaker" in done.stderr
    assert "cannot flush a folder" in done.stderr
    check_library(home, simulator)


def test_nothing_is_said_of_a_file_system_that_can_do_it_all(home: Home, tmp_path: Path) -> None:
    with open_root(tmp_path) as root:
        abilities = probe(root)
    if abilities != Capabilities(safe_rename=True, links=True, folder_sync=True):
        pytest.skip(f"this one cannot: {abilities}")
    with home.daemon():
        assert home.events("library_weaker") == []
    assert not list(home.library.glob(".floradl-probe*"))


# --- two disks ----------------------------------------------------------------------------------------------


@pytest.mark.root
def test_library_state_and_inbox_may_lie_on_three_disks(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(match=Match(output="b"), do=Do(cut_after="50%"), times=1))
    with (
        in_memory(home.library, "16m"),
        in_memory(home.state, "16m"),
        in_memory(home.inbox, "16m"),
        home.daemon(),
    ):
        job = home.path / "job.txt"
        job.write_text("campaign/run_a\n")
        shutil.move(job, home.inbox)
        assert home.finished("campaign/run_a")["result"] == "complete"
        wait_until(lambda: home.status()["counts"]["done"] == 1)
        check_library(home, simulator)
        assert home.run("verify").returncode == 0


@pytest.mark.root
def test_folders_of_the_library_may_lie_on_disks_of_their_own(home: Home, simulator: Simulator) -> None:
    with (
        in_memory(home.library, "16m"),
        in_memory(home.library / "videos", "16m"),
        in_memory(home.library / "runs", "16m"),
    ):
        assert home.run("get", "campaign/run_a").returncode == 0
        check_library(home, simulator)


@pytest.mark.root
def test_the_other_disk_may_come_back_at_another_place(home: Home, simulator: Simulator) -> None:
    disk = home.path / "disk"
    disk.mkdir()
    with mounted(home.library, "--bind", disk):
        home.drop("campaign/run_a\n")
        assert home.run("once").returncode == 0
        unmount(home.library)
    with mounted(home.path / "elsewhere", "--bind", disk):
        home.drop("campaign/run_a\n", "again.txt")
        home.environ["FLORADL_OUTPUT__DIR"] = str(home.path / "elsewhere")
        assert home.run("once").returncode == 0
        assert home.run("verify").returncode == 0
    assert len(simulator.asked("media")) == 2
    assert list(home.library.iterdir()) == []


# --- files of other people ----------------------------------------------------------------------------------


def test_a_foreign_file_keeps_its_name_and_the_run_completes_under_another(home: Home) -> None:
    foreign = home.library / PICTURE
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"somebody else's")
    (home.library / "text/campaign").mkdir(parents=True)
    (home.library / "text/campaign/RUN_A-words.txt").write_text("a name that differs in case only")
    assert home.run("get", "campaign/run_a").returncode == 0
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert sidecar["result"] == "complete"
    paths = [output["path"] for output in sidecar["outputs"]]
    assert paths[0] == "images/campaign/run_a-a-2.png"
    assert paths[2] == "text/campaign/run_a-words-2.txt"
    assert foreign.read_bytes() == b"somebody else's"
    assert (home.library / "text/campaign/RUN_A-words.txt").read_text().startswith("a name")


def test_a_file_that_has_the_right_bytes_already_is_adopted(home: Home, simulator: Simulator) -> None:
    run = simulator.run("run_a")
    assert run is not None
    body = run.body(0).read()
    there = home.library / PICTURE
    there.parent.mkdir(parents=True)
    there.write_bytes(body)
    inode = there.stat().st_ino
    assert home.run("get", "campaign/run_a").returncode == 0
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert sidecar["outputs"][0]["path"] == PICTURE
    assert sidecar["outputs"][0]["sha256"] == hashlib.sha256(body).hexdigest()
    assert there.stat().st_ino == inode
    check_library(home, simulator)


def test_a_file_that_appears_while_its_namesake_arrives_is_not_replaced(
    home: Home, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(match=Match(output="a", host="media"), do=Do(drip=40_000), times=1))
    with home.daemon():
        home.drop("campaign/run_a\n")
        folder = home.library / "images/campaign"
        wait_until(lambda: folder.exists() and simulator.asked("media", "run_a"))
        assert not (home.library / PICTURE).exists()
        (home.library / PICTURE).write_bytes(b"somebody else's")
        sidecar = home.finished("campaign/run_a")
    assert sidecar["outputs"][0]["path"] == "images/campaign/run_a-a-2.png"
    assert (home.library / PICTURE).read_bytes() == b"somebody else's"
