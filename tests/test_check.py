from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bystanders import holding, open_to_all
from loopback import OK, Certificate, Server
from queues import make_queue
from studio import Home, wait_until

from floradl import redaction
from floradl.commands.check import machine
from floradl.commands.check.command import check
from floradl.commands.check.template import check_template
from floradl.commands.exits import Exit
from floradl.config.load import Options, load_config
from floradl.config.settings import Config
from floradl.daemon.startup import first_start
from floradl.errors import ConfigError, PauseReason
from floradl.fs import mounts
from floradl.library.sidecar import Sidecar
from floradl.library_builder import build_library
from floradl.models import OutputKind, Result, SavedOutput
from floradl.queue.folder import FILE_NAME
from floradl.queue.heartbeat import LivePause, Snapshot, write
from floradl.simulator import Simulator, serve
from floradl.simulator.faults import Do, Fault

pytestmark = pytest.mark.anyio

_KEY = "sk_test_planted0"
_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount and to become somebody else")


@pytest.fixture(autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    known = list(redaction._known)
    yield
    redaction._known[:] = known


class Place(msgspec.Struct, frozen=True):
    """A home, and the variables that `check` is given."""

    home: Path
    environ: dict[str, str]

    @property
    def config(self) -> Config:
        return load_config(Options(), self.environ, system_file=self.home / "none.yaml")

    async def lines(self, **options: Any) -> tuple[Exit, dict[str, str]]:
        """Check, and return what was said by name: `ok: …`, `FAIL: …`."""
        stream = io.StringIO()
        code = await check(self.config, self.environ, stream, **options)
        assert "planted" not in stream.getvalue()
        found = {}
        for line in stream.getvalue().splitlines():
            level, name, message = line[:4].strip(), *line[6:].split(": ", 1)
            found[name] = f"{level}: {message}"
        return code, found

    async def finding(self, name: str, **options: Any) -> str:
        return (await self.lines(**options))[1][name]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Give a home whose API nobody serves."""
    environ = {
        "HOME": str(tmp_path),
        "FLORADL_HOME": str(tmp_path),
        "FLORADL_BASE_URL": "http://127.0.0.1:1/api/v1",
        "FLORADL_NETWORK__TRUSTED_PRIVATE_HOSTS": "127.0.0.1, localhost",
        "FLORA_API_KEY": _KEY,
        "FLORADL_DOWNLOAD__MIN_FREE_SPACE": "0",
    }
    return Place(tmp_path, environ)


def with_variables(place: Place, **environ: str) -> Place:
    return Place(place.home, {**place.environ, **environ})


@asynccontextmanager
async def simulated(place: Place, **do: Any) -> AsyncIterator[Place]:
    """Serve a FLORA that knows the key, and does as told with each request."""
    simulator = Simulator(key=_KEY)
    if do:
        simulator.faults.add(Fault(do=Do(**do)))
    async with serve(simulator) as base_url:
        yield with_variables(place, FLORADL_BASE_URL=base_url)


# --- as a whole -------------------------------------------------------------------------------------------


async def test_all_is_good_where_nothing_is_amiss(place: Place) -> None:
    async with simulated(place) as served:
        code, found = await served.lines()
    assert code is Exit.OK
    assert all(line.startswith("ok: ") for line in found.values()), found
    assert found["API key"] == "ok: from the variable FLORA_API_KEY"
    assert found["API"].endswith("ms and takes the key")


async def test_a_check_leaves_nothing_behind(place: Place) -> None:
    config = place.config
    for folder in (config.queue.watch_dir, config.state_dir):
        folder.mkdir()
    first_start(config.state_dir, build_library(config))
    before = sorted(place.home.rglob("*"))
    async with simulated(place) as served:
        await served.lines()
    assert sorted(place.home.rglob("*")) == before


async def test_before_the_first_start_no_folder_is_made(place: Place) -> None:
    assert "will be made at the first start" in await place.finding("library")
    assert list(place.home.iterdir()) == []


async def test_json_holds_the_same_for_programs(place: Place) -> None:
    stream = io.StringIO()
    code = await check(place.config, place.environ, stream, as_json=True)
    document = json.loads(stream.getvalue())
    assert code is Exit.FOUND
    assert document["schema_version"] == 1
    checks = {found["name"]: found for found in document["checks"]}
    assert checks["library"].items() >= {"ok": True, "level": "ok", "remedy": None}.items()
    assert checks["API"].items() >= {"ok": False, "level": "fail"}.items()
    assert "machine online" in checks["API"]["remedy"]


# --- configuration and key --------------------------------------------------------------------------------


async def test_the_configuration_file_is_named(place: Place) -> None:
    assert await place.finding("configuration") == "ok: no file: defaults and the environment"
    (place.home / "config.yaml").touch()
    assert await place.finding("configuration") == f"ok: {place.home / 'config.yaml'}"


async def test_a_missing_key_is_found_and_the_api_asked_all_the_same(place: Place) -> None:
    async with simulated(with_variables(place, FLORA_API_KEY="")) as served:
        code, found = await served.lines()
    assert code is Exit.FOUND
    assert found["API key"].startswith("FAIL: there is none -> set FLORA_API_KEY")
    assert "without a key nothing more" in found["API"]


async def test_a_key_that_cannot_be_one_is_found(place: Place) -> None:
    told = await with_variables(place, FLORA_API_KEY="sk_test planted").finding("API key")
    assert told.startswith("FAIL: the variable FLORA_API_KEY: this is not an API key")


async def test_a_key_that_does_not_look_like_flora_s_is_remarked(place: Place) -> None:
    told = await with_variables(place, FLORA_API_KEY="other-planted-key").finding("API key")
    assert told.startswith("warn: the one from the variable FLORA_API_KEY does not start with sk_live_")


async def test_a_key_file_that_every_user_can_read_is_remarked(public_home: Path, place: Place) -> None:
    file = public_home / "key"
    file.write_text(_KEY)
    keyed = with_variables(place, FLORA_API_KEY="", FLORA_API_KEY_FILE=str(file))
    file.chmod(0o644)
    assert "can be read by every user of this machine -> chmod 600" in await keyed.finding("API key")
    file.chmod(0o600)
    assert await keyed.finding("API key") == f"ok: from {file}"
    file.chmod(0o644)
    os.chmod(public_home, 0o700)  # noqa: PTH101 - as the lines above
    assert await keyed.finding("API key") == f"ok: from {file}"


# --- the API ----------------------------------------------------------------------------------------------


async def test_a_refused_key_is_found(place: Place) -> None:
    async with simulated(with_variables(place, FLORA_API_KEY="sk_test_planted_wrong")) as served:
        code, found = await served.lines()
    assert code is Exit.FOUND
    assert found["API"].startswith("FAIL: refuses the key from the variable FLORA_API_KEY: HTTP 401 ")
    assert "(request-id req_" in found["API"]


@pytest.mark.parametrize(
    ("do", "told"),
    [
        ({"status": 402, "code": "insufficient_credits"}, "FAIL: the workspace is out of credits"),
        ({"status": 403, "code": "forbidden"}, "ok: "),
        ({"status": 404, "code": "not_found"}, "FAIL: {url} refuses to list runs: HTTP 404"),
        ({"status": 429, "code": "rate_limited"}, "warn: "),
        ({"status": 503, "code": "service_unavailable"}, "FAIL: has trouble of its own: HTTP 503"),
        ({"html": True, "status": 502}, "FAIL: {url} has trouble (HTTP 502, with a web page)"),
        ({"html": True, "status": 404}, "FAIL: {url} answers 404 with a web page -> is api.base_url"),
        ({"html": True, "status": 200}, "FAIL: {url} answers with a web page -> is api.base_url"),
        ({"status": 200, "body": "{}"}, "FAIL: {url} answers in a form that is not FLORA's"),
        ({"status": 200, "body": "[" * 99_999}, "FAIL: {url} answers in a form that is not FLORA's"),
        (
            {"redirect": "https://portal.example/?secret=planted"},
            "FAIL: {url} sends its readers to https://portal.example (HTTP 302)",
        ),
        ({"redirect": "https://portal.example:port/"}, "FAIL: cannot be reached: Invalid URL in location"),
        ({"reset": True}, "FAIL: cannot be reached: 127.0.0.1: "),
    ],
)
async def test_each_answer_of_the_api_is_told_for_what_it_is(
    place: Place, do: dict[str, Any], told: str
) -> None:
    async with simulated(place, **do) as served:
        code, found = await served.lines()
        url = served.config.api.base_url
    assert found["API"].startswith(told.format(url=url))
    assert code is (Exit.FOUND if told.startswith("FAIL") else Exit.OK)


async def test_lists_that_the_key_may_not_read_are_found_where_sync_needs_them(place: Place) -> None:
    async with simulated(place, status=403, code="forbidden") as served:
        told = await with_variables(served, FLORADL_SYNC__GENERATIONS="true").finding("API")
    assert told.startswith("FAIL: the key may not list runs, which sync needs")


async def test_an_api_that_is_not_there_is_told_in_words(place: Place) -> None:
    code, found = await place.lines()
    assert code is Exit.FOUND
    assert found["API"].startswith("FAIL: cannot be reached: 127.0.0.1: no connection (Connection refused)")
    assert "is this machine online" in found["API"]


async def test_a_certificate_that_nobody_vouches_for_is_told_in_words(place: Place) -> None:
    certificate = Certificate(place.home, "localhost")
    with Server(tls=certificate.server) as server:
        url = f"https://localhost:{server.port}/api/v1"
        told = await with_variables(place, FLORADL_BASE_URL=url).finding("API")
    assert "SSL_CERT_FILE names its certificates" in told


async def test_the_proxy_is_named_without_its_password(place: Place) -> None:
    with Server(lambda _: b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n") as server:
        proxied = with_variables(
            place,
            FLORADL_BASE_URL="https://flora.example/api/v1",
            HTTPS_PROXY=f"http://user:planted@127.0.0.1:{server.port}",
        )
        found = (await proxied.lines())[1]
    assert found["proxy"] == f"ok: requests to the API go through 127.0.0.1:{server.port}"
    assert found["API"].startswith("FAIL: cannot be reached: ")
    assert "is the proxy right" in found["API"]


async def test_a_proxy_that_cannot_be_used_is_found(place: Place) -> None:
    told = await with_variables(
        place, FLORADL_BASE_URL="https://flora.example/api/v1", HTTPS_PROXY="socks5://user:planted@h:1"
    ).finding("proxy")
    assert told.startswith("FAIL: HTTPS_PROXY in the environment names no proxy that can be used")


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "ok: agrees"), (-3600, "warn: this machine's clock is 1h behind"), (172_800, "warn: ")],
)
async def test_the_clock_is_compared_with_the_api_s(place: Place, seconds: int, told: str) -> None:
    async with simulated(place) as served:
        code, found = await served.lines(wall=lambda: time.time() // 1 + seconds)
    assert found["clock"].startswith(told)
    assert code is Exit.OK


async def test_an_answer_without_a_date_says_nothing_of_the_clock(place: Place) -> None:
    with Server(lambda _: OK) as server:
        served = with_variables(place, FLORADL_BASE_URL=f"http://127.0.0.1:{server.port}/api/v1")
        assert "clock" not in (await served.lines())[1]


# --- folders and disks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("watch folder", "FLORADL_QUEUE__WATCH_DIR"),
        ("library", "FLORADL_OUTPUT__DIR"),
        ("state folder", "FLORADL_STATE_DIR"),
    ],
)
async def test_a_file_in_a_folder_s_place_is_found(place: Place, name: str, variable: str) -> None:
    file = place.home / "file"
    file.touch()
    assert (await with_variables(place, **{variable: str(file)}).finding(name)).startswith("FAIL: ")
    assert (await with_variables(place, **{variable: str(file / "b")}).finding(name)).startswith("FAIL: ")


def test_a_file_system_that_takes_no_long_names_is_found(tmp_path: Path) -> None:
    found = machine._trouble("library", tmp_path, "output.dir", 256)  # this one takes 255
    assert str(found) == (
        f"FAIL  library: {tmp_path} takes no names of 256 bytes -> "
        "set output.max_name_bytes to 143, or to what the file system takes"
    )
    assert list(tmp_path.iterdir()) == []


async def test_a_link_that_leads_nowhere_is_found(place: Place) -> None:
    (place.home / "inbox").symlink_to(place.home / "gone")
    assert "is a link that leads nowhere" in await place.finding("watch folder")


async def test_a_library_whose_disk_is_gone_is_found(place: Place) -> None:
    config = place.config
    library = config.home / "library"
    config.state_dir.mkdir()
    first_start(config.state_dir, build_library(config))
    assert await place.finding("library") == f"ok: {library} (on {mounts.filesystem(library)})"
    (library / ".floradl-library").unlink()
    told = await place.finding("library")
    assert told.startswith(f"FAIL: {library} does not carry .floradl-library: its disk is not mounted")
    shutil.rmtree(library)
    assert (await place.finding("library")).startswith("FAIL: ")


async def test_too_little_room_is_found(place: Place) -> None:
    told = await with_variables(place, FLORADL_DOWNLOAD__MIN_FREE_SPACE="900TB").finding("disk")
    assert told.startswith("FAIL: ")
    assert "download.min_free_space wants 900 TB" in told


async def test_a_state_folder_on_a_network_file_system_is_refused(
    place: Place, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No server of such a kind is at hand: the kernel's table of mounts says there is one.
    table = tmp_path_factory.mktemp("proc") / "mountinfo"
    table.write_text(f"30 1 0:30 / {place.home} rw - nfs4 nas:/share rw\n")
    monkeypatch.setattr(mounts, "_TABLE", table)
    code, found = await place.lines()
    assert code is Exit.FOUND
    assert "is on a network file system (nfs4), where the journal is not safe" in found["state folder"]
    assert found["watch folder"].startswith("warn: ")
    assert "/library is on nfs4: what its server promises in a power cut" in found["library"]


async def test_a_damaged_journal_is_found(place: Place) -> None:
    place.config.state_dir.mkdir()
    (place.config.state_dir / FILE_NAME).write_bytes(b"no database at all" * 100)
    assert "the journal is damaged" in await place.finding("journal")


async def test_the_queue_file_is_read(place: Place) -> None:
    file = place.home / "queue.yaml"
    queued = with_variables(place, FLORADL_QUEUE__FILE=str(file))
    assert (await queued.finding("queue file")).startswith("warn: ")
    file.write_text("runs: [run_a, run_b]\n")
    assert await queued.finding("queue file") == f"ok: {file}: 2 runs"
    file.write_text("runs: [run_a, nonsense]\n")
    assert (await queued.finding("queue file")).startswith("FAIL: ")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 1 MiB with few inodes (in memory)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-o", "size=1m,nr_inodes=50"]
    if subprocess.run(["mount", "-t", "tmpfs", *options, "none", str(folder)], check=False).returncode:
        pytest.skip("may not mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


@_root
async def test_a_disk_mounted_read_only_is_found(place: Place, small_disk: Path) -> None:
    (small_disk / "there").mkdir()
    make_read_only(small_disk)
    there = with_variables(place, FLORADL_QUEUE__WATCH_DIR=str(small_disk / "there"))
    told = await there.finding("watch folder")
    assert told.endswith("Read-only file system -> it is mounted read-only: mount it for writing")
    new = with_variables(place, FLORADL_QUEUE__WATCH_DIR=str(small_disk / "new"))
    assert (await new.finding("watch folder")).startswith("FAIL: ")


@_root
async def test_a_full_disk_and_one_without_inodes_are_found(place: Place, small_disk: Path) -> None:
    there = with_variables(place, FLORADL_OUTPUT__DIR=str(small_disk))
    assert "there can be no more files (inodes)" in await there.finding("disk")
    (small_disk / "fill").write_bytes(bytes(1 << 20))
    told = await there.finding("library")
    assert told.startswith("FAIL: ")
    assert told.endswith("-> make room on its disk")


@_root
async def test_a_library_in_memory_is_remarked(place: Place, small_disk: Path) -> None:
    told = await with_variables(place, FLORADL_OUTPUT__DIR=str(small_disk)).finding("library")
    assert told.startswith("warn: ")
    assert "in memory (tmpfs)" in told


@pytest.fixture
def public_home() -> Iterator[Path]:
    with open_to_all() as folder:
        yield folder


_AS_NOBODY = """
import ctypes, os, sys
from functools import partial
from pathlib import Path
import anyio, anyio._backends._asyncio, encodings.idna, shlex
from floradl.commands.check.command import check
from floradl.config.load import Options, load_config
environ = {"HOME": "/", "FLORADL_BASE_URL": "http://127.0.0.1:1/", "FLORA_API_KEY": "sk_test_planted0",
           "FLORADL_NETWORK__TRUSTED_PRIVATE_HOSTS": "127.0.0.1"}
config = load_config(Options(home=Path(sys.argv[1])), environ, system_file=Path("/nowhere"))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
spent = []
if sys.argv[2:] == ["spend"]:
    libc = ctypes.CDLL(None)
    while (fd := libc.inotify_init1(0)) >= 0:
        spent.append(fd)
anyio.run(partial(check, config, environ, sys.stdout))
"""


def as_nobody(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-c", _AS_NOBODY, str(home), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@_root
def test_folders_of_somebody_else_s_are_found(public_home: Path) -> None:
    for name in ("inbox", "state"):
        (public_home / name).mkdir()
    (public_home / "state").chmod(0o700)
    told = as_nobody(public_home)
    assert f"FAIL  watch folder: {public_home}/inbox cannot be written: Permission denied" in told
    assert f"FAIL  library: {public_home}/library cannot be made: {public_home} may not be written" in told
    assert "warn  user: the state folder belongs to user root, and this is user nobody" in told
    assert "FAIL  journal: " in told
    assert "FAIL  daemon: " in told


@_root
def test_a_volume_of_a_container_that_root_made_is_no_state_of_somebody_else_s(public_home: Path) -> None:
    (public_home / "state").mkdir()
    (public_home / "state").chmod(0o1777)  # as a new volume is, which takes the mode of the image's folder
    told = as_nobody(public_home)
    assert "ok    state folder: " in told
    assert "  user: " not in told


@_root
async def test_root_is_told_that_the_home_is_somebody_else_s(public_home: Path, place: Place) -> None:
    for folder in ("", "state"):
        (public_home / folder).mkdir(exist_ok=True)
    os.chown(public_home, 1, 1)
    there = with_variables(place, FLORADL_HOME=str(public_home))
    told = await there.finding("state folder")
    assert told.startswith(f"FAIL: the state folder {public_home}/state is not safe")
    assert f"{public_home} belongs to user " in told
    (public_home / "state").rmdir()
    assert (await there.finding("user")).startswith("warn: the home belongs to user ")


@_root
def test_a_state_folder_that_others_could_replace_is_told_once(public_home: Path) -> None:
    (public_home / "state").mkdir()
    os.chown(public_home / "state", 65534, 65534)
    (public_home / "state").chmod(0o777)
    told = as_nobody(public_home)
    assert told.count("  state folder: ") == 1
    assert f"FAIL  state folder: the state folder {public_home}/state is not safe" in told


@_root
def test_a_state_folder_that_the_daemon_alone_may_write_is_no_fault(public_home: Path) -> None:
    state_dir = public_home / "state"
    state_dir.mkdir()
    assert "FAIL  state folder: " in as_nobody(public_home)
    with holding(state_dir, time.time()):
        assert "ok    state folder: " in as_nobody(public_home)


@_root
def test_spent_inotify_limits_are_remarked(public_home: Path) -> None:
    told = as_nobody(public_home, "spend")  # the limit is each user's own
    assert "warn  inotify: fs.inotify.max_user_instances is used up" in told
    assert "warn  inotify" not in as_nobody(public_home)


# --- the daemon -------------------------------------------------------------------------------------------


def test_a_broken_queue_file_is_told_once_beside_a_daemon(home: Home) -> None:
    file = home.path / "queue.yaml"
    file.write_text("runs: [run_a, nonsense]\n")
    home.environ["FLORADL_QUEUE__FILE"] = str(file)
    with home.daemon():
        wait_until(lambda: "nonsense" in home.run("status").stdout)
        assert home.run("check").stdout.count("nonsense") == 1


async def test_a_running_daemon_is_named_and_its_pause_found(place: Place) -> None:
    state_dir = place.config.state_dir
    state_dir.mkdir()
    make_queue(state_dir)
    assert await place.finding("daemon") == "ok: not running"
    now = time.time()
    with holding(state_dir, now) as pid:
        pause = LivePause(PauseReason.CREDITS, "the workspace is out of credits", now)
        write(state_dir, Snapshot(pid, "1.2.3", now, now, pause, "line 3 is broken"))
        found = (await place.lines())[1]
        assert found["daemon"].startswith(f"ok: floradl run (process {pid} on ")
        assert "(credits): the workspace is out of credits" in found["paused"]
        assert found["queue file"] == "FAIL: the daemon reports: line 3 is broken"
        write(state_dir, Snapshot(pid, "1.2.3", now, now - 700))
        assert "made no progress for" in await place.finding("daemon")


async def test_no_key_in_sight_is_no_fault_beside_a_daemon_that_may_have_one(place: Place) -> None:
    place.config.state_dir.mkdir()
    make_queue(place.config.state_dir)
    keyless = with_variables(place, FLORA_API_KEY="")
    assert (await keyless.finding("API key")).startswith("FAIL: there is none")
    with holding(place.config.state_dir, time.time()):
        assert (await keyless.finding("API key")).startswith("warn: there is none here; the daemon at work")


# --- the people of a service ------------------------------------------------------------------------------


@pytest.fixture
def of_a_service(public_home: Path, place: Place) -> Place:
    """Give a home as a unit makes it: of a user whom nobody logs in as, open to its group alone."""
    for folder in (public_home, public_home / "inbox", public_home / "library"):
        folder.mkdir(exist_ok=True)
        os.chown(folder, 1, 1)  # bin or daemon, whatever the distribution calls it
        folder.chmod(0o2770)
    return with_variables(place, FLORADL_HOME=str(public_home))


@_root
async def test_a_service_that_its_group_can_use_is_said_to_be(of_a_service: Place) -> None:
    told = await of_a_service.finding("group")
    assert told.startswith("ok: ")
    assert "can drop jobs and use the library (sudo usermod -aG " in told


@_root
@pytest.mark.parametrize(
    ("folder", "told"),
    [("inbox", "cannot put job files into"), ("library", "cannot open the library"), ("", "cannot get to")],
)
async def test_a_folder_that_shuts_the_group_out_is_remarked_with_its_remedy(
    of_a_service: Place, folder: str, told: str
) -> None:
    (of_a_service.config.home / folder).chmod(0o700)
    found = await of_a_service.finding("group")
    assert found.startswith("warn: ")
    assert told in found
    assert "chmod" in found


@_root
async def test_a_library_of_another_group_s_is_remarked_unless_everybody_may_open_it(
    of_a_service: Place,
) -> None:
    library = of_a_service.config.home / "library"
    os.chown(library, 1, 2)
    assert "cannot open the library" in await of_a_service.finding("group")
    library.chmod(0o755)
    assert (await of_a_service.finding("group")).startswith("ok: ")


async def test_nothing_is_said_of_a_group_where_a_person_runs_it(place: Place) -> None:
    place.config.queue.watch_dir.mkdir()
    assert "group" not in (await place.lines())[1]


def template(place: Place, text: str = "") -> str:
    stream = io.StringIO()
    assert check_template(place.config, text, stream) is Exit.OK
    return stream.getvalue()


def test_a_template_is_shown_by_three_made_up_paths_where_the_library_has_no_files(place: Place) -> None:
    shown = template(place, "{project}/{created:%Y}/{label|'none'}-{run_id}-{index}")
    assert [line for line in shown.splitlines() if line.startswith("  prj_spring/2026/spring-run_abc12")]
    assert len(shown.splitlines()) == 1 + 2 * 3 + 1
    assert "made up" in shown
    assert not (place.home / "library").exists()


def test_a_template_is_shown_by_three_outputs_of_the_library_of_different_kinds(place: Place) -> None:
    library = build_library(place.config)
    library.create()
    outputs = tuple(
        SavedOutput(
            output_id=f"out_{number}",
            type=type_,
            kind=kind,
            path=f"x/{number}{ext}",
            bytes=1,
            sha256="ab" * 32,
            url=f"https://media.flora.ai/hero-{number}{ext}",
        )
        for number, (type_, kind, ext) in enumerate(
            [
                ("imageUrl", OutputKind.IMAGE, ".png"),
                ("imageUrl", OutputKind.IMAGE, ".png"),
                ("imageUrl", OutputKind.IMAGE, ".png"),
                ("videoUrl", OutputKind.VIDEO, ".mp4"),
            ]
        )
    )
    sidecar = Sidecar(
        reference="campaign/run_a",
        technique="campaign",
        technique_name="The campaign",
        run_id="run_a",
        meta={"shot": "12"},
        result=Result.COMPLETE,
        outputs=outputs,
    )
    library.write_sidecar(sidecar, None)
    shown = template(place, "{technique_name}/{meta.shot}-{stem}")
    assert [line.strip() for line in shown.splitlines() if line.startswith("  The")] == [
        "The campaign/12-hero-0.png",
        "The campaign/12-hero-3.mp4",
        "The campaign/12-hero-1.png",
    ]
    assert "made up" not in shown
    assert "{folder}/{technique}" in template(place)


def put_run(place: Place, run_id: str, label: str | None = None, **meta: str) -> None:
    """Write the sidecar of a run of two images."""
    library = build_library(place.config)
    if not (place.home / "library").exists():
        library.create()
    outputs = tuple(
        SavedOutput(
            output_id=f"out_{number}",
            type="imageUrl",
            kind=OutputKind.IMAGE,
            path=f"x/{run_id}-{number}.png",
            bytes=1,
            sha256="ab" * 32,
        )
        for number in range(2)
    )
    sidecar = Sidecar(
        reference=f"campaign/{run_id}",
        technique="campaign",
        run_id=run_id,
        label=label,
        meta=meta,
        result=Result.COMPLETE,
        outputs=outputs,
    )
    library.write_sidecar(sidecar, None)


def test_a_template_is_shown_by_runs_with_label_and_meta_before_others(place: Place) -> None:
    for number in range(3):
        put_run(place, f"run_{number}")
    put_run(place, "run_z", "spring", shot="12")
    assert template(place, "{label}-{meta.shot}-{index}").splitlines()[1] == "  spring-12-1.png"


def test_outputs_of_a_run_that_a_template_gives_the_same_path_are_told(place: Place) -> None:
    put_run(place, "run_a")
    shown = template(place, "{folder}/x{ext}")
    assert shown.count("outputs of campaign/run_a share the path images/x.png") == 1
    assert "share" not in template(place, "{folder}/x-{index}{ext}")


def test_a_key_of_meta_in_a_template_that_no_run_has_is_told(place: Place) -> None:
    put_run(place, "run_a", shot="12")
    assert "{meta.shto}: no run here has it" in template(place, "{meta.shto}-{output_id}")
    assert "no run here" not in template(place, "{meta.shot}-{output_id}")


def test_an_unknown_field_of_a_template_is_named_with_the_nearest_one(place: Place) -> None:
    with pytest.raises(ConfigError, match=r"{lable} is not a field: did you mean {label}\?"):
        check_template(place.config, "{lable}/{run_id}", io.StringIO())
