"""floradl as a service of a machine under systemd: set up as docs/service.md says, and treated badly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Certificate
from machine import ROOT, Machine, booted
from receivers import mail_site, web_site
from studio import wait_until

from floradl.simulator import OutputSpec, Simulator

pytestmark = [pytest.mark.root, pytest.mark.slow]

UNITS = ROOT / "deploy" / "systemd"
SERVICE = "floradl.service"
HOME = "/var/lib/floradl"
PICTURE = OutputSpec("look", "imageUrl", size=40_000)
CLIP = OutputSpec("clip", "videoUrl", size=3_000_000, rate=1_000_000)
_HASTE = "[Service]\nRestartSec=100ms\n"
_STRICT = "[Service]\nWatchdogSec=10\n"  # a busy machine may be late with a sign of life


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Boot one, with the units in place and alice and bob as people, alice one of the group."""
    with booted(tmp_path_factory.mktemp("machine")) as machine:
        system = machine.root / "etc/systemd/system"
        for unit in UNITS.glob("*.service"):
            shutil.copy(unit, system)
        machine.write("/etc/sysusers.d/floradl.conf", (UNITS / "floradl.sysusers.conf").read_text())
        machine.run("systemd-sysusers")
        for person in ("alice", "bob"):
            machine.run("useradd", "--create-home", person)
        machine.run("usermod", "-aG", "floradl", "alice")
        yield machine


class Service:
    """floradl on that machine, as its administrator sees it."""

    def __init__(self, machine: Machine, simulator: Simulator, url: str) -> None:
        self.machine = machine
        self.simulator = simulator
        self.url = url
        self.inbox = machine.root / f"{HOME}/inbox".lstrip("/")
        self.library = machine.root / f"{HOME}/library".lstrip("/")

    def configure(self, more: str = "", where: str = "/etc/floradl", key: str | None = None) -> None:
        """Write configuration and key."""
        text = f"api: {{base_url: '{self.url}'}}\npoll: {{interval: 100ms}}\n"
        if "network:" not in more:
            text += "network: {trusted_private_hosts: [127.0.0.1]}\n"
        self.machine.write(f"{where}/config.yaml", text + more)
        self.machine.write(f"{where}/flora_api_key", key or self.simulator.key, 0o600)

    def drop_in(self, name: str, text: str, unit: str = SERVICE) -> None:
        self.machine.write(f"/etc/systemd/system/{unit}.d/{name}.conf", text)
        self.machine.run("systemctl", "daemon-reload")

    def start(self) -> None:
        self.machine.run("systemctl", "start", SERVICE)

    def drop(self, text: str, person: str = "alice", name: str = "job.txt") -> str:
        """Have somebody put a job file into the inbox, with the umask that people have."""
        script = f'umask 022; printf "%s\\n" "$0" > {HOME}/inbox/{name}'
        return self.machine.run("runuser", "-u", person, "--", "sh", "-c", script, text, check=False)

    def says(self, name: str, unit: str = SERVICE) -> str:
        return self.machine.property(unit, name)

    def main(self) -> int:
        return int(self.says("MainPID"))

    def journal(self) -> str:
        return self.machine.run("journalctl", "--no-pager", "-o", "cat", "-u", SERVICE)

    def sidecar(self, run: str) -> dict[str, Any] | None:
        path = self.library / "runs" / "campaign" / f"{run}.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def finished(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = wait_until(lambda: self.sidecar(run))
        return found

    def arrived(self) -> int:
        return sum(path.stat().st_size for path in self.library.rglob("videos/campaign/.*.part"))


@pytest.fixture
def service(machine: Machine, simulator_inside: tuple[Simulator, str]) -> Iterator[Service]:
    """Give one that is configured, with nothing in its home, and not started yet."""
    service = Service(machine, *simulator_inside)
    service.configure()
    service.drop_in("haste", _HASTE)
    yield service
    machine.run("systemctl", "stop", SERVICE, check=False)
    machine.run("systemctl", "reset-failed", check=False)
    for leftover in ("etc/floradl", "var/lib/floradl", f"etc/systemd/system/{SERVICE}.d"):
        shutil.rmtree(machine.root / leftover, ignore_errors=True)
    machine.run("systemctl", "daemon-reload")


@pytest.fixture
def simulator_inside(machine: Machine) -> Iterator[tuple[Simulator, str]]:
    simulator = Simulator()
    with machine.serving(simulator) as url:
        yield simulator, url


def test_a_start_returns_once_all_is_served_and_status_reads_well(service: Service) -> None:
    service.start()
    assert (service.library / ".floradl-library").exists()
    assert service.inbox.is_dir()
    wait_until(lambda: service.says("StatusText") == "Waiting for runs")


def test_one_of_the_group_drops_a_job_and_opens_what_came(service: Service) -> None:
    service.simulator.add_run("run_a", technique="campaign", duration=0.1)
    service.start()
    assert service.drop("campaign/run_a") == ""
    outputs = service.finished("run_a")["outputs"]
    path = f"{HOME}/library/{outputs[0]['path']}"
    read = service.machine.run("runuser", "-u", "alice", "--", "sh", "-c", f"cat {path} | wc -c")
    assert int(read) == outputs[0]["bytes"] > 0
    # A file of the group's, in a folder of the group's: people may sort what came.
    service.machine.run("runuser", "-u", "alice", "--", "mv", path, f"{path}.mine")


def test_one_who_is_not_of_the_group_may_do_neither(service: Service) -> None:
    service.start()
    assert "Permission denied" in service.drop("campaign/run_a", person="bob")
    told = service.machine.run("runuser", "-u", "bob", "--", "ls", f"{HOME}/library", check=False)
    assert "Permission denied" in told


def test_one_of_the_group_asks_for_the_status_but_may_not_touch_the_state(service: Service) -> None:
    service.start()
    as_alice = ("runuser", "-u", "alice", "--")
    told = service.machine.run(*as_alice, "floradl", "--home", HOME, "status")
    assert "daemon   running for" in told
    touched = service.machine.run(*as_alice, "touch", f"{HOME}/state/mine", check=False)
    assert "Permission denied" in touched


def test_one_of_the_group_decides_nothing_that_the_service_does(service: Service) -> None:
    service.start()
    as_alice = ("runuser", "-u", "alice", "--", "sh", "-c")
    for script in (f"touch {HOME}/config.yaml", f"mv {HOME}/state {HOME}/mine", f"echo > {HOME}/state/lock"):
        assert "Permission denied" in service.machine.run(*as_alice, script, check=False)
    mode = service.machine.run("stat", "-c", "%a %U %G", HOME).strip()
    assert mode == "2750 floradl floradl"


def test_a_service_of_old_is_refused_and_moves_as_the_documentation_says(service: Service) -> None:
    machine = service.machine
    service.drop_in("old", "[Service]\nStateDirectoryMode=2770\nEnvironment=FLORADL_CONFIG=\n")
    machine.run("install", "-d", "-o", "floradl", "-g", "floradl", "-m", "2770", HOME)
    settings = "hooks: {run_finished: [/tmp/mine]}"
    machine.run("runuser", "-u", "alice", "--", "sh", "-c", f"echo '{settings}' > {HOME}/config.yaml")
    assert "failed" in machine.run("systemctl", "start", SERVICE, check=False)
    wait_until(lambda: service.says("ActiveState") == "failed")
    assert f"{HOME}/config.yaml: the configuration is not taken from there" in service.journal()
    machine.run("rm", f"{HOME}/config.yaml")
    machine.run("systemctl", "start", SERVICE, check=False)
    wait_until(lambda: service.says("ActiveState") == "failed")
    assert f"the state folder {HOME}/state is not safe" in service.journal()
    assert "StateDirectoryMode=2750" in service.journal()
    (machine.root / f"etc/systemd/system/{SERVICE}.d/old.conf").unlink()
    machine.run("systemctl", "daemon-reload")
    service.start()
    assert machine.run("stat", "-c", "%a", HOME).strip() == "2750"
    assert service.says("ActiveState") == "active"


def test_a_daemon_that_hangs_is_ended_by_the_watchdog_and_goes_on(service: Service) -> None:
    service.simulator.add_run("run_a", technique="campaign", outputs=[CLIP], duration=0)
    service.drop_in("strict", _STRICT)
    service.start()
    service.drop("campaign/run_a")
    wait_until(lambda: service.arrived() > 500_000)
    hung = service.main()
    service.machine.run("kill", "-STOP", str(hung))
    wait_until(lambda: service.says("NRestarts") == "1" and service.says("ActiveState") == "active")
    assert service.main() != hung
    assert service.finished("run_a")["result"] == "complete"
    assert "Watchdog timeout" in service.journal()


def test_a_daemon_that_is_killed_comes_back_and_fetches_nothing_twice(service: Service) -> None:
    service.simulator.add_run("run_a", technique="campaign", outputs=[CLIP], duration=0)
    service.start()
    service.drop("campaign/run_a")
    wait_until(lambda: service.arrived() > 500_000)
    service.machine.run("kill", "-KILL", str(service.main()))
    assert service.finished("run_a")["result"] == "complete"
    assert service.says("NRestarts") == "1"
    assert [request.status for request in service.simulator.asked("media", "run_a")] == [200, 206]


def test_a_stop_in_the_middle_of_a_transfer_drains_and_the_next_start_goes_on(service: Service) -> None:
    service.simulator.add_run("run_a", technique="campaign", outputs=[CLIP], duration=0)
    service.start()
    service.drop("campaign/run_a")
    wait_until(lambda: service.arrived() > 500_000)
    service.machine.run("systemctl", "stop", SERVICE)
    assert service.says("Result") == "success"
    assert service.arrived() > 500_000
    service.start()
    assert service.finished("run_a")["result"] == "complete"
    assert [request.status for request in service.simulator.asked("media", "run_a")] == [200, 206]


def test_a_reload_applies_what_can_be_and_tells_of_a_broken_file(service: Service) -> None:
    service.start()
    before = service.main()
    service.configure("download: {rate_limit: 3MB}\n")
    service.machine.run("systemctl", "reload", SERVICE)
    wait_until(lambda: '"settings":["download.rate_limit"]' in service.journal())
    service.configure("download: {rate_limit: fast}\n")
    service.machine.run("systemctl", "reload", SERVICE)
    wait_until(lambda: "rate_limit: 'fast' is not a size" in service.says("StatusText"))
    assert service.says("ActiveState") == "active"
    assert service.main() == before


def test_a_wrong_configuration_is_told_and_not_tried_again_and_again(service: Service) -> None:
    service.configure("download: {concurency: 4}\n")
    told = service.machine.run("systemctl", "start", SERVICE, check=False)
    assert "failed" in told
    wait_until(lambda: service.says("ActiveState") == "failed")
    assert service.says("ExecMainStatus") == "2"
    assert service.says("NRestarts") == "0"
    assert "concurrency" in service.journal()


def test_a_missing_key_is_named_by_its_file(service: Service) -> None:
    (service.machine.root / "etc/floradl/flora_api_key").unlink()
    service.machine.run("systemctl", "start", SERVICE, check=False)
    wait_until(lambda: service.says("ActiveState") == "failed")
    assert "/etc/floradl/flora_api_key" in service.machine.run("systemctl", "status", SERVICE, check=False)
    assert service.says("ExecMainStatus") == "2"


def test_a_refused_key_is_a_pause_that_status_tells(service: Service) -> None:
    service.configure(key="sk_test_another0")
    service.simulator.add_run("run_a", technique="campaign", duration=0)
    service.start()
    service.drop("campaign/run_a")
    wait_until(lambda: "(key_refused)" in service.says("StatusText"))
    assert service.says("ActiveState") == "active"


def test_the_key_is_in_no_place_that_others_can_read(service: Service) -> None:
    service.start()
    key = service.simulator.key
    main = service.main()
    assert key not in service.machine.run("systemctl", "show", SERVICE)
    assert key not in service.machine.run("cat", f"/proc/{main}/environ", f"/proc/{main}/cmdline")
    assert key not in service.journal()
    for command in ("cat /etc/floradl/flora_api_key", f"cat /run/credentials/{SERVICE}/flora_api_key"):
        read = service.machine.run("runuser", "-u", "alice", "--", "sh", "-c", command, check=False)
        assert "Permission denied" in read


def test_a_library_elsewhere_needs_its_drop_in_and_the_daemon_says_so(service: Service) -> None:
    media = service.machine.root / "srv/media"
    media.mkdir(parents=True, exist_ok=True)
    service.machine.run("chown", "floradl:floradl", "/srv/media")
    service.configure("output: {dir: /srv/media/flora}\n")
    service.simulator.add_run("run_a", technique="campaign", duration=0.1)
    service.start()
    service.drop("campaign/run_a")
    wait_until(lambda: "(library_read_only)" in service.says("StatusText"))
    assert "ReadWritePaths=" in service.says("StatusText")
    service.drop_in("library", "[Service]\nReadWritePaths=/srv/media\n")
    service.machine.run("systemctl", "restart", SERVICE)
    wait_until((media / "flora/runs/campaign/run_a.json").exists)


def test_a_library_whose_disk_is_mounted_later_is_written_once_it_is_there(service: Service) -> None:
    (service.machine.root / "srv/late").mkdir(parents=True)
    service.configure("output: {dir: /srv/late/flora}\n")
    service.drop_in("library", "[Service]\nReadWritePaths=/srv/late\n")
    service.simulator.add_run("run_a", technique="campaign", duration=0.1)
    service.start()
    service.drop("campaign/run_a")
    wait_until(lambda: "Paused" in service.says("StatusText"))
    service.machine.run("mount", "-t", "tmpfs", "-o", "mode=0777", "late", "/srv/late")
    try:
        done = "/srv/late/flora/runs/campaign/run_a.json"
        wait_until(lambda: "run_a" in service.machine.run("cat", done, check=False))
    finally:
        service.machine.run("systemctl", "stop", SERVICE)
        service.machine.run("umount", "/srv/late")


def test_a_user_s_own_needs_no_root(service: Service, machine: Machine) -> None:
    uid = machine.run("id", "-u", "bob").strip()
    machine.run("loginctl", "enable-linger", "bob", check=False)
    machine.run("systemctl", "start", f"user@{uid}", check=False)
    if machine.run("ls", f"/run/user/{uid}/systemd/private", check=False).startswith("ls:"):
        pytest.skip("users have no manager of their own here (package libpam-systemd)")
    service.configure(where="/home/bob/.config/floradl")
    machine.write("/home/bob/.config/systemd/user/floradl.service", (UNITS / "user" / SERVICE).read_text())
    machine.run("chown", "-R", "bob:", "/home/bob")
    as_bob = ("runuser", "-u", "bob", "--", "env", f"XDG_RUNTIME_DIR=/run/user/{uid}")
    service.simulator.add_run("run_a", technique="campaign", duration=0.1)
    machine.run(*as_bob, "systemctl", "--user", "daemon-reload")
    machine.run(*as_bob, "systemctl", "--user", "start", "floradl")
    try:
        machine.run(*as_bob, "floradl", "add", "campaign/run_a")
        service.library = machine.root / "home/bob/flora/library"
        assert service.finished("run_a")["result"] == "complete"
    finally:
        machine.run(*as_bob, "systemctl", "--user", "stop", "floradl")


def test_two_side_by_side_share_nothing(service: Service, machine: Machine) -> None:
    other = Simulator(key="sk_test_films000")
    other.add_run("run_f", technique="campaign", duration=0.1)
    with machine.serving(other) as url:
        films = Service(machine, other, url)
        films.configure(where="/etc/floradl/films")
        service.start()
        machine.run("systemctl", "start", "floradl@films")
        try:
            machine.run("sh", "-c", "echo campaign/run_f > /var/lib/floradl-films/inbox/job.txt")
            films.library = machine.root / "var/lib/floradl-films/library"
            assert films.finished("run_f")["result"] == "complete"
        finally:
            machine.run("systemctl", "stop", "floradl@films")
    assert service.sidecar("run_f") is None


def test_an_instance_without_settings_of_its_own_does_not_take_the_others_s(
    service: Service, machine: Machine
) -> None:
    service.configure()
    machine.write("/etc/floradl/films/flora_api_key", "sk_test_films000", 0o600)
    machine.run("systemctl", "start", "floradl@films", check=False)
    told = machine.run("systemctl", "status", "floradl@films", check=False)
    assert "/etc/floradl/films/config.yaml: this configuration file does not exist" in told


def test_the_gallery_of_the_unit_shows_what_came_with_its_thumbnail(service: Service) -> None:
    service.simulator.add_run("run_a", technique="campaign", outputs=[PICTURE], duration=0.1)
    service.configure("web: {listen: '127.0.0.1:8788'}\n")
    service.start()
    assert service.drop("campaign/run_a") == ""
    output = service.finished("run_a")["outputs"][0]
    ask = ("curl", "-fsS", "--retry", "20", "--retry-all-errors", "--retry-delay", "1")
    url = "http://127.0.0.1:8788"
    wait_until(lambda: "run_a" in service.machine.run(*ask, f"{url}/api/outputs"))
    assert "<title>" in service.machine.run(*ask, f"{url}/")
    size = service.machine.run(
        "sh", "-c", f"{' '.join(ask)} {url}/thumbnails/{output['sha256']}.webp | wc -c"
    )
    assert int(size) > 0
    assert "gallery_ended" not in service.journal()
    service.machine.run("systemctl", "stop", SERVICE)
    assert "Failed to connect" in service.machine.run("curl", "-sS", url, check=False)


def test_messages_of_the_unit_get_out_over_tls_to_names_that_are_looked_up(
    service: Service, tmp_path: Path
) -> None:
    certificate = Certificate(tmp_path, "hooks.example", "mail.example")
    machine = service.machine
    machine.write("/etc/hosts", "127.0.0.1 localhost hooks.example mail.example\n")
    machine.write("/etc/floradl/authority.pem", certificate.file.read_text())
    service.drop_in("authority", "[Service]\nEnvironment=SSL_CERT_FILE=/etc/floradl/authority.pem\n")
    service.configure("network: {trusted_private_hosts: [127.0.0.1, hooks.example, mail.example]}\n")
    service.simulator.add_run("run_bad", technique="campaign", fail=("unlucky", "out of luck"), duration=0.1)
    with (
        machine.inside(lambda: web_site(certificate)) as site,
        machine.inside(lambda: mail_site(certificate, is_tls=True)) as mail,
    ):
        web = site.url.replace("127.0.0.1", "hooks.example")
        urls = f"{web}\nsmtps://mail.example:{mail.port}/?to=you@example.com\n"
        machine.write("/etc/floradl/notify_urls", urls, 0o600)
        service.start()
        assert service.drop("campaign/run_bad") == ""
        assert "campaign/run_bad failed" in site.got()[0]["text"]
        wait_until(lambda: mail.mails)
    assert "Secret123Token" not in service.journal()
