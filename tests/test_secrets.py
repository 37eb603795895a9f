"""The key and the queries of signed URLs are nowhere but on the wire: not in a log, a file, a trace, or `ps`.

The greatest part of these tests is bait: whatever an API, a media host or a user can make us repeat.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote

import pytest
from studio import Home, served, wait_until

from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator
from floradl.simulator.faults import FaultBook
from floradl.simulator.runs import ScriptedRun

# Of no form that could be told from other words, and with what percent-encoding changes.
KEY = "Planted/key+of-nobody=7Q"
BAIT = "5e3aBAITc0ffee"  # stands for a signature
BAIT_URL = f"https://media.example/secret/film.mp4?X-Goog-Expires=60&X-Goog-Signature={BAIT}"
BAITED = f"refused {BAIT_URL}, asked for with Authorization: Bearer {KEY} and again {quote(KEY, safe='')}"
PICTURE = (OutputSpec("picture", "imageUrl"),)


class Noting(Simulator):
    """A simulator that remembers the queries of the URLs that it gave out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.queries: list[str] = []

    def output_url(self, run: ScriptedRun, index: int) -> str:
        url = super().output_url(run, index)
        self.queries += [query] if (query := url.partition("?")[2]) else []
        return url

    @property
    def secrets(self) -> set[bytes]:
        signatures = [value for query in self.queries for value in parse_qs(query).get("Signature", ())]
        words = [self.key, quote(self.key, safe=""), BAIT, *self.queries, *signatures]
        return {word.encode() for word in words}


@pytest.fixture
def simulator() -> Iterator[Noting]:
    simulator = Noting(key=KEY)
    with served(simulator):
        yield simulator


@pytest.fixture
def home(tmp_path: Path, simulator: Noting) -> Home:
    return Home(tmp_path, simulator)


def leaks(home: Home, simulator: Noting, *told: str) -> list[str]:
    """Say where a secret stands: in which file that floradl wrote, and in what it told."""
    found = [
        f"{path.relative_to(home.path)}: {_around(data, secret)}"
        for path in sorted(home.path.rglob("*"))
        if path.is_file() and not _is_job(home, path)
        for data in [path.read_bytes()]
        for secret in simulator.secrets
        if secret in data
    ]
    return found + [
        f"told: {_around(text.encode(), secret)}"
        for text in told
        for secret in simulator.secrets
        if secret in text.encode()
    ]


def _is_job(home: Home, path: Path) -> bool:
    """Whether a file is the user's own: it is kept as it was dropped."""
    if path.name == "queue.yaml":
        return True
    return path.is_relative_to(home.inbox) and not path.name.endswith(".error.txt")


def _around(data: bytes, secret: bytes) -> str:
    at = data.index(secret)
    return ascii(data[max(at - 80, 0) : at + len(secret) + 20])


def refusing(status: int, code: str, run: str | None = None, path: str | None = None) -> Fault:
    body = json.dumps({"error": {"code": code, "message": BAITED, "fields": [{"field": BAIT_URL}]}})
    return Fault(do=Do(status=status, body=body), match=Match(host="api", run=run, path=path))


def api_says(run: str, **said: str) -> Fault:
    return Fault(do=Do(set=said), match=Match(host="api", run=run))


def stage(simulator: Simulator) -> dict[str, list[str]]:
    """Script runs with bait in whatever is repeated somewhere; say which end, and which meet trouble."""

    def add(name: str, *outputs: OutputSpec, fail: tuple[str, str] | None = None) -> str:
        return str(simulator.add_run(name, outputs=outputs or PICTURE, duration=0, fail=fail))

    def link(text: str, type_: str = "imageUrl") -> OutputSpec:
        return OutputSpec("a", type_, url=text)

    on_media = {
        "run_redirected": Do(redirect=f"http://192.0.2.1/film.mp4?sig={BAIT}"),
        "run_expired": Do(expire=True),
        "run_reset": Do(reset=True),
        "run_page": Do(status=500, body=BAITED),
    }
    for run, do in on_media.items():
        simulator.faults.add(Fault(do=do, match=Match(host="media", run=run)))
    for fault in (
        api_says("run_echo", note=BAIT_URL, callback=f"key {KEY}", seen=BAITED, poll_url=BAIT_URL),
        api_says("run_endless", status=BAIT_URL),
        refusing(400, "input_validation_error", "run_refused"),
        refusing(503, f"down {KEY}", "run_gateway"),
        refusing(403, "forbidden", path="*/technique-runs"),  # so that each run is asked about by itself
        Fault(do=Do(status=200, body=BAITED), match=Match(host="api", run="run_no_json")),
    ):
        simulator.faults.add(fault)
    return {
        "ended": [
            add("run_fine", *PICTURE, OutputSpec("said", "text", size=500)),
            add("run_failed", fail=("provider_error", BAITED)),
            add("run_unknown_failure", fail=(BAIT_URL, BAITED)),
            add("run_echo"),
            add("run_endless"),
            add("run_refused"),
            add("run_redirected"),
            add("run_user", link(f"https://user:{KEY}@media.example/film.mp4?sig={BAIT}")),
            add("run_scheme", link(f"ftp://media.example/film.mp4?sig={BAIT}")),
            add("run_no_url", link(f"https://[::1/film.mp4?sig={BAIT}")),
            add("run_new_type", link(f"http://192.0.2.1/film.mp4?sig={BAIT}", "holoUrl")),
        ],
        "troubled": [
            add("run_gateway"),
            add("run_no_json"),
            add("run_expired"),
            add("run_reset"),
            add("run_page"),
            add("run_forged", link(f"{{media}}/media/run_fine/1.png?Signature={BAIT}")),
            add("run_text_link", link(f"{{media}}/media/run_text_link/1.txt?sig={BAIT}", "text")),
        ],
    }


def test_a_daemon_writes_and_tells_no_secret_even_at_the_highest_verbosity(
    home: Home, simulator: Noting
) -> None:
    runs = stage(simulator)
    queue = home.path / "queue.yaml"
    queue.write_text(f"runs:\n- run: run_a\n  {KEY}: '{BAIT_URL}'\n")
    home.environ |= {
        "FLORADL_POLL__GIVE_UP_AFTER": "1s",
        "FLORADL_DOWNLOAD__TEXT_URL_HOSTS": "127.0.0.1",
        "FLORADL_QUEUE__FILE": str(queue),
    }
    with home.daemon("-v", "-v") as process:
        home.drop("\n".join(run for group in runs.values() for run in group))
        home.drop(f"{BAITED}\n", "words.txt")
        home.drop(json.dumps({BAIT_URL: 1, KEY: 2}), "keys.json")
        home.drop(f"runs: [{{run: run_a, {KEY}: '{BAIT_URL}'}}]", "keys.yaml")
        home.drop(f"- run: run_a\n  action: {KEY}\n- '{BAIT_URL}'\n", "values.yaml")
        for run in runs["ended"]:
            home.finished(run)
        wait_until(lambda: set(runs["troubled"]) <= in_trouble(home))
        wait_until(lambda: len(list((home.inbox / "rejected").glob("*.error.txt"))) == 4)
        simulator.faults = FaultBook([refusing(401, "invalid_api_key")])
        late = simulator.add_run("run_late", duration=0)
        home.drop(str(late), "late.txt")
        wait_until(lambda: home.status()["paused"])
        assert "queue.yaml is broken" in home.status()["queue_file_error"]
        told = [home.run("status", *words).stdout for words in ((), ("--json",), ("--all",), ("--check",))]
        told.append(Path(f"/proc/{process.pid}/cmdline").read_text())
        assert (home.state / "journal.sqlite3-wal").stat().st_size > 0
        found = leaks(home, simulator, *told)
    assert not found, "\n".join(found)
    assert len(simulator.queries) > 5
    assert not any(request.authorization for request in simulator.asked("media"))


def in_trouble(home: Home) -> set[str]:
    """Return the runs that the log tells trouble of."""
    events = [*home.events("run_trouble"), *home.events("output_trouble")]
    return {f"art-directors-critique/{event['run']}" for event in events}


# Plants a bug where the key and a signed URL are at hand; what it says is made from both.
BUGS = {
    "in a run's work": """
import floradl.download.downloader
def offer(response):
    url = response.url
    raise RuntimeError(f"{url} with {os.environ['FLORA_API_KEY']}") from ValueError(url)
floradl.download.downloader.offer_of = offer
""",
    "in a thread of its own": """
import floradl.net.url_policy, threading
def look_up(host, port, timeout, resolver=None):
    def fail():
        raise RuntimeError(f"{host} with {os.environ['FLORA_API_KEY']}")
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    return (host,)
floradl.net.url_policy.addresses = look_up
""",
    "in the daemon itself": """
import floradl.sources.intake
async def take(self):
    raise RuntimeError(os.environ['FLORA_API_KEY'])
floradl.sources.intake.Intake.take = take
""",
}


@pytest.mark.parametrize("bug", list(BUGS))
def test_a_crash_leaves_a_trace_without_secrets(home: Home, simulator: Noting, bug: str) -> None:
    run = simulator.add_run("run_a", outputs=PICTURE, duration=0)
    home.drop(str(run))
    start = "from floradl.cli import main\nmain()\n"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import os\n{BUGS[bug]}{start}",
            "once",
            "--max-wait",
            "2s",
            "-v",
            "-v",
            "-v",
        ],
        env=home.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "RuntimeError" in done.stderr
    found = leaks(home, simulator, done.stdout, done.stderr)
    assert not found, "\n".join(found)


def test_what_is_typed_in_the_wrong_place_is_not_repeated(home: Home, simulator: Noting) -> None:
    # The key is not known for one before the configuration is read: its form must tell.
    key = "sk_live_0123456789abcdef"
    calls = (
        ("get", key),
        ("get", BAIT_URL),
        ("add", f"art-directors-critique/{key}"),
        ("forget", BAIT_URL),
        ("once", "--max-wait", key),
        (key,),
        ("--config", f"/nowhere/{key}", "status"),
    )
    for call in calls:
        done = home.run(*call)
        assert done.returncode == 2
        assert key not in done.stdout + done.stderr
        assert not leaks(home, simulator, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "settings",
    [
        {"FLORA_API_KEY": "", "FLORA_API_KEY_FILE": "sk_live_0123456789abcdef"},
        {"FLORA_API_KEY": "sk_live_0123456789abcdef\nX: y"},
        {"FLORADL_API__KEY": "sk_live_0123456789abcdef"},
        {"FLORADL_API__BASE_URL": "https://user:sk_live_0123456789abcdef@flora.example/api"},
        {
            "FLORA_BASE_URL": "https://flora.example/api/v1",
            "HTTPS_PROXY": "http://user:sk_live_0123456789abcdef@[proxy",
        },
    ],
)
def test_a_setting_that_is_wrong_is_named_and_its_secret_is_not(home: Home, settings: dict[str, str]) -> None:
    home.environ |= settings
    for call in (("once", "--max-wait", "1s"), ("check",)):
        home.drop("run_a")
        done = home.run(*call)
        assert done.returncode in {1, 2, 5}
        assert done.stdout + done.stderr
        assert "0123456789abcdef" not in done.stdout + done.stderr


def test_a_key_in_the_configuration_file_is_not_repeated(home: Home) -> None:
    (home.path / "config.yaml").write_text("api:\n  key: sk_live_0123456789abcdef\n")
    done = home.run("status")
    assert done.returncode == 2
    assert "0123456789abcdef" not in done.stderr


def test_the_demo_tells_neither_its_key_nor_a_query(tmp_path: Path) -> None:
    home = Home(tmp_path)
    done = home.run("demo", "--home", str(tmp_path / "demo"))
    assert done.returncode == 0, done.stderr
    written = [path.read_bytes() for path in (tmp_path / "demo").rglob("*") if path.is_file()]
    for data in (*written, done.stdout.encode(), done.stderr.encode()):
        assert b"sk_test_" not in data
        assert b"Signature" not in data
    assert len(written) > 20
