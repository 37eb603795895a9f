from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given, strategies as st

from floradl.config.load import Options, load_config
from floradl.config.settings import Config, sections, settings, variable
from floradl.errors import ConfigError, ExposedError
from floradl.library.selection import OutputRule
from floradl.models import OutputKind
from floradl.net.addresses import Endpoint
from floradl.net.bandwidth import RateSchedule, RateWindow
from floradl.urls import BucketUrl


class Machine(msgspec.Struct, frozen=True):
    """A home folder, a system-wide file, and a configuration file at a place of its own."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "user"

    @property
    def file(self) -> Path:
        return self.root / "conf" / "my.yaml"

    @property
    def system_file(self) -> Path:
        return self.root / "etc" / "config.yaml"

    def write(self, text: str | bytes, to: Path | None = None) -> Path:
        file = to or self.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def load(self, options: Options | None = None, environ: Mapping[str, str] | None = None) -> Config:
        return load_config(
            options or Options(), {"HOME": str(self.home), **(environ or {})}, system_file=self.system_file
        )

    def read(self, text: str | bytes, environ: Mapping[str, str] | None = None) -> Config:
        return self.load(Options(config=self.write(text)), environ)

    def refusal(self, text: str | bytes, environ: Mapping[str, str] | None = None) -> str:
        with pytest.raises(ConfigError) as caught:
            self.read(text, environ)
        return str(caught.value)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def working_folder(tmp_path: Path) -> Iterator[Path]:
    before, folder = Path.cwd(), tmp_path / "cwd"
    folder.mkdir()
    os.chdir(folder)
    yield folder
    os.chdir(before)


# What stands without any configuration


def test_without_any_configuration_the_contract_s_defaults_hold(machine: Machine) -> None:
    config = machine.load()
    home = machine.home / "flora"
    assert config.file is None
    assert config.home == home
    assert config.api.base_url == "https://app.flora.ai/api/v1"
    assert config.api.key_file is None
    assert config.queue.watch_dir == home / "inbox"
    assert config.queue.file is None
    assert config.queue.keep == 30 * 86_400
    assert config.sync.kinds == ()
    assert (config.sync.since, config.sync.interval) == (7 * 86_400, 60)
    assert (config.sync.projects, config.sync.techniques) == ((), ())
    assert config.output.dir == home / "library"
    assert config.output.template == "{folder}/{technique}/{run_id}-{output_id}{ext}"
    assert config.output.folders.by_kind() == {
        OutputKind.IMAGE: "images",
        OutputKind.VIDEO: "videos",
        OutputKind.AUDIO: "audio",
        OutputKind.DOCUMENT: "documents",
        OutputKind.TEXT: "text",
        OutputKind.OTHER: "other",
    }
    assert config.output.mtime == "completed"
    assert config.output.max_name_bytes == 255
    assert config.state_dir == home / "state"
    assert (config.poll.interval, config.poll.give_up_after) == (2, 86_400)
    assert (config.download.concurrency, config.download.stall_timeout) == (16, 30)
    assert config.download.rate_limit is None
    assert config.download.max_file_size is None
    assert config.download.min_free_space == 1 << 30
    assert config.download.media_hosts == ("*",)
    assert config.download.text_url_hosts == (
        *("*.flora.ai", "storage.googleapis.com", "*.storage.googleapis.com"),
        *("*.amazonaws.com", "*.imagekit.io"),
    )
    assert config.network.trusted_private_hosts == ()
    assert (config.log.level, config.log.format) == ("info", "auto")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "poll:\n", "{}", "output:\n  folders:\n"])
def test_a_file_or_section_that_says_nothing_changes_nothing(machine: Machine, text: str) -> None:
    config = machine.read(text)
    assert msgspec.structs.replace(config, file=None) == machine.load()


def test_the_loaded_configuration_cannot_be_changed(machine: Machine) -> None:
    with pytest.raises(AttributeError):
        machine.load().download.concurrency = 1  # type: ignore[misc]


# Where the file is found


def test_the_first_file_that_exists_is_read_and_only_that(machine: Machine) -> None:
    xdg, floradl_home = machine.root / "xdg", machine.root / "place"
    environ = {
        "XDG_CONFIG_HOME": str(xdg),
        "FLORADL_HOME": str(floradl_home),
        "FLORADL_CONFIG": str(machine.root / "named.yaml"),
    }
    files = [
        machine.system_file,
        xdg / "floradl" / "config.yaml",
        floradl_home / "config.yaml",
        machine.root / "named.yaml",
    ]
    for number, file in enumerate(files, start=1):
        machine.write(f"download: {{concurrency: {number}}}", file)
    options = Options(config=machine.write("download: {concurrency: 5}"))
    assert machine.load(options, environ).download.concurrency == 5
    assert machine.load(Options(), environ).download.concurrency == 4
    del environ["FLORADL_CONFIG"]
    for number, file in reversed(list(enumerate(files[:3], start=1))):
        config = machine.load(Options(), environ)
        assert (config.download.concurrency, config.file) == (number, file)
        file.unlink()
    assert machine.load(Options(), environ).download.concurrency == 16


def test_the_file_in_the_user_s_config_folder_is_found_without_xdg_variables(machine: Machine) -> None:
    file = machine.write("log: {level: error}", machine.home / ".config" / "floradl" / "config.yaml")
    assert machine.load().file == file
    assert machine.load(Options(), {"XDG_CONFIG_HOME": "relative/is/ignored"}).file == file


def test_the_home_option_leads_to_that_home_s_file(machine: Machine) -> None:
    home = machine.root / "chosen"
    machine.write("home: /somewhere/else\nlog: {level: error}", home / "config.yaml")
    config = machine.load(Options(home=home), {"FLORADL_HOME": "/elsewhere"})
    assert config.log.level == "error"
    assert config.home == home


@pytest.mark.parametrize("environ", [{}, {"FLORADL_CONFIG": "gone.yaml"}])
def test_a_named_file_that_does_not_exist_is_an_error(machine: Machine, environ: dict[str, str]) -> None:
    options = Options() if environ else Options(config=machine.root / "gone.yaml")
    with pytest.raises(ConfigError, match=r"gone\.yaml: this configuration file does not exist"):
        machine.load(options, environ)


def test_settings_that_others_may_write_or_replace_are_refused_with_the_mend(machine: Machine) -> None:
    file = machine.write("log: {level: error}")
    file.chmod(0o646)
    with pytest.raises(ExposedError, match=rf"{file} can be written by every user: chmod o-w {file}"):
        machine.load(Options(config=file))
    file.chmod(0o644)
    file.parent.chmod(0o757)
    with pytest.raises(ExposedError, match=rf"{file.parent} can be written by every user: chmod o-w"):
        machine.load(Options(config=file))
    file.parent.chmod(0o1757)  # sticky: what is this user's there nobody else can rename
    assert machine.load(Options(config=file)).log.level == "error"


def test_a_link_to_settings_that_others_may_write_is_refused(machine: Machine) -> None:
    elsewhere = machine.write("log: {level: error}", machine.root / "shared" / "config.yaml")
    elsewhere.parent.chmod(0o777)
    machine.file.parent.mkdir()
    machine.file.symlink_to(elsewhere)
    with pytest.raises(ExposedError, match=f"{elsewhere.parent} can be written by every user"):
        machine.load(Options(config=machine.file))


def test_settings_may_be_nothing_or_come_through_a_pipe(machine: Machine) -> None:
    assert machine.load(Options(config=Path("/dev/null"))).log.level == "info"
    reading, writing = os.pipe()
    os.write(writing, b"log: {level: error}")
    os.close(writing)
    try:
        assert machine.load(Options(config=Path(f"/dev/fd/{reading}"))).log.level == "error"
    finally:
        os.close(reading)


def test_a_folder_in_the_file_s_place_is_an_error_that_says_so(machine: Machine) -> None:
    with pytest.raises(ConfigError, match="this is a folder"):
        machine.load(Options(config=machine.root))
    (machine.home / ".config/floradl/config.yaml").mkdir(parents=True)
    with pytest.raises(ConfigError, match="this is a folder"):
        machine.load()


def test_a_file_that_cannot_be_looked_for_is_not_passed_over(machine: Machine) -> None:
    machine.write("", machine.root / "loop")
    config_folder = machine.home / ".config"
    config_folder.mkdir(parents=True)
    (config_folder / "floradl").symlink_to("floradl")
    with pytest.raises(ConfigError, match="cannot tell whether there is a configuration file"):
        machine.load()


def test_a_file_that_cannot_be_read_is_an_error(machine: Machine) -> None:
    with pytest.raises(
        ConfigError, match="/proc/self/mem: the configuration file cannot be read: Input/output"
    ):
        machine.load(Options(config=Path("/proc/self/mem")))  # for root, too


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_reads_the_same(machine: Machine) -> None:
    text = "\ufeffdownload:\r\n  concurrency: 3\r\n"
    assert machine.read(text).download.concurrency == 3


def test_a_file_that_is_not_utf8_is_refused_with_its_line(machine: Machine) -> None:
    assert machine.refusal(b"home: /a\nqueue: {file: \xe4}\n") == (
        f"{machine.file}, line 2: this is not UTF-8 text; save the file as UTF-8"
    )


def test_a_file_that_is_too_large_is_refused(machine: Machine) -> None:
    assert "1 MiB" in machine.refusal(b"#" * (1 << 20) + b"\xe4#")


def test_the_file_may_be_json(machine: Machine) -> None:
    assert machine.read('{\n\t"poll": {"interval": "5s"}\n}').poll.interval == 5


# Who wins


def test_a_variable_wins_over_the_file_and_an_option_over_both(machine: Machine) -> None:
    text = "home: /from/file\nlog: {level: error}\n"
    environ = {"FLORADL_HOME": "/from/variable", "FLORADL_LOG__LEVEL": "warning"}
    config = machine.read(text, environ)
    assert (config.home, config.log.level) == (Path("/from/variable"), "warning")
    options = Options(config=machine.file, home=Path("/from/option"), log_level="debug")
    config = machine.load(options, environ)
    assert (config.home, config.log.level) == (Path("/from/option"), "debug")


def test_our_variable_wins_over_flora_s(machine: Machine) -> None:
    environ = {"FLORA_BASE_URL": "https://flora.example/v1", "FLORA_API_KEY_FILE": "/flora/key"}
    config = machine.read("api: {base_url: 'https://file.example', key_file: /file/key}", environ)
    assert config.api.base_url == "https://flora.example/v1"
    assert config.api.key_file == Path("/flora/key")
    environ |= {"FLORADL_API__BASE_URL": "https://ours.example", "FLORADL_API__KEY_FILE": "/our/key"}
    config = machine.load(Options(), environ)
    assert config.api.base_url == "https://ours.example"
    assert config.api.key_file == Path("/our/key")


@pytest.mark.parametrize("empty", ["", " ", "\t\n"])
def test_an_empty_variable_is_an_unset_one(machine: Machine, empty: str) -> None:
    environ = {
        name: empty
        for key in settings()
        for name in (variable(key), *settings()[key].aliases, "FLORADL_CONFIG", "FLORADL_NO__SUCH")
    }
    assert machine.read("download: {concurrency: 3}", environ).download.concurrency == 3


@pytest.mark.parametrize("address", ["0.0.0.0:8788", "nas.example:8788", '"[::]:8788"', "192.168.1.2:8788"])
def test_a_gallery_that_other_machines_reach_needs_a_token(machine: Machine, address: str) -> None:
    with pytest.raises(ConfigError, match=r"line 2: web\.listen: can be reached .* web\.token_file"):
        machine.read(f"web:\n  listen: {address}\n")
    assert machine.read(f"web:\n  listen: {address}\n  token_file: t\n").web.listen


_OTHER_VALUES = {
    "home": ("/h", Path("/h")),
    "api.base_url": ("https://b.example/api/", "https://b.example/api"),
    "api.key_file": ("/k", Path("/k")),
    "queue.watch_dir": ("/w", Path("/w")),
    "queue.file": ("/q.yaml", Path("/q.yaml")),
    "queue.keep": ("0", 0),
    "queue.max_open": ("7", 7),
    "queue.engine": ("postgresql://floradl@db.example:5433/q", "postgresql://floradl@db.example:5433/q"),
    "queue.password_file": ("/p", Path("/p")),
    "sync.technique_runs": ("True", True),
    "sync.generations": ("true", True),
    "sync.since": ("30d", 30 * 86_400),
    "sync.projects": ("[]", ()),
    "sync.techniques": ("[]", ()),
    "sync.interval": ("5m", 300),
    "output.dir": ("s3://media/flora/", BucketUrl("s3", "media", "flora")),
    "output.endpoint": ("https://minio.example:9000/", "https://minio.example:9000"),
    "output.region": ("eu-central-1", "eu-central-1"),
    "output.instance_credentials": ("true", True),
    "output.template": ("{run_id}-{index}{ext}", "{run_id}-{index}{ext}"),
    "output.folders.image": ("pics", "pics"),
    "output.folders.video": ("media/films", "media/films"),
    "output.folders.audio": ("a", "a"),
    "output.folders.document": ("d", "d"),
    "output.folders.text": ("t", "t"),
    "output.folders.other": ("o", "o"),
    "output.kinds": ("[image, Video, image]", (OutputKind.IMAGE, OutputKind.VIDEO)),
    "output.rules": (
        '[{technique: "cam-*", kinds: [video]}, {output_id: "draft_*", skip: true}]',
        (OutputRule("cam-*", kinds=(OutputKind.VIDEO,)), OutputRule(output_id="draft_*", skip=True)),
    ),
    "output.mtime": ("NOW", "now"),
    "output.xmp": ("true", True),
    "output.max_name_bytes": ("143", 143),
    "library.keep.image": ("2w", 14 * 86_400),
    "library.keep.video": ("90d", 90 * 86_400),
    "library.keep.audio": ("1m", 60),
    "library.keep.document": ("1d", 86_400),
    "library.keep.text": ("10d", 864_000),
    "library.keep.other": ("1h", 3600),
    "state_dir": ("/s", Path("/s")),
    "poll.interval": ("0.1s", 0.1),
    "poll.give_up_after": ("7d", 604_800),
    "download.concurrency": ("256", 256),
    "download.stall_timeout": ("1m", 60),
    "download.rate_limit": ("10MB", RateSchedule.always(10_000_000)),
    "download.max_file_size": ("5GB", 5_000_000_000),
    "download.min_free_space": ("0", 0),
    "download.media_hosts": ('["*.flora.ai", nas.local]', ("*.flora.ai", "nas.local")),
    "download.text_url_hosts": ("[]", ()),
    "webhook.listen": ("127.0.0.1:8787", Endpoint("127.0.0.1", 8787)),
    "webhook.secret_file": ("/whsec", Path("/whsec")),
    "webhook.runs": ("queued", "queued"),
    "metrics.listen": ("localhost:9187", Endpoint("localhost", 9187)),
    "web.listen": ("127.0.0.1:8788", Endpoint("127.0.0.1", 8788)),
    "web.token_file": ("/token", Path("/token")),
    "web.thumbnail_space": ("100MB", 100_000_000),
    "network.trusted_private_hosts": ('["[::1]:8080", 10.0.0.7]', ("[::1]:8080", "10.0.0.7")),
    "hooks.run_finished": ('[notify, "a b"]', ("notify", "a b")),
    "hooks.paused": ("[/opt/mail]", ("/opt/mail",)),
    "hooks.timeout": ("5m", 300),
    "notify.urls_file": ("/urls", Path("/urls")),
    "notify.on": ("[Daily, paused, daily]", ("daily", "paused")),
    "log.level": ("debug", "debug"),
    "log.format": ("json", "json"),
}


@pytest.mark.parametrize("key", settings(), ids=".".join)
@pytest.mark.parametrize("way", ["file", "variable"])
def test_every_key_is_read_from_the_file_and_from_its_variable(
    machine: Machine, key: tuple[str, ...], way: str
) -> None:
    text, expected = _OTHER_VALUES[".".join(key)]
    if way == "file":
        quoted = text if text.startswith("[") else f"'{text}'"
        nested = "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(key))
        config = machine.read(f"{nested.rstrip()} {quoted}\n")
    else:
        config = machine.load(Options(), {variable(key): text})
    found: object = config
    for part in key:
        found = getattr(found, part)
    assert found == expected
    assert type(found) is type(expected) or isinstance(found, float | Path)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("*.flora.ai,storage.googleapis.com", ("*.flora.ai", "storage.googleapis.com")),
        (" *.flora.ai , a.example, ", ("*.flora.ai", "a.example")),
        ('["*.flora.ai", a.example]', ("*.flora.ai", "a.example")),
        ("[2001:db8::1]:8080,a.example", ("[2001:db8::1]:8080", "a.example")),
        ("[2001:db8::1]", ("2001:db8::1",)),
        ("[2001:db8::1]:80", ("[2001:db8::1]:80",)),
        ("a.example,a.example", ("a.example",)),
    ],
)
def test_a_list_in_a_variable_has_commas_or_is_yaml(
    machine: Machine, text: str, hosts: tuple[str, ...]
) -> None:
    assert machine.load(Options(), {"FLORADL_DOWNLOAD__MEDIA_HOSTS": text}).download.media_hosts == hosts


@pytest.mark.parametrize("text", ["prj_a, prj_b", "[prj_a, 'prj_b']", '["prj_a","prj_b",prj_a]'])
def test_names_in_a_variable_have_commas_or_are_yaml(machine: Machine, text: str) -> None:
    environ = {"FLORADL_SYNC__PROJECTS": text, "FLORADL_SYNC__GENERATIONS": "true"}
    assert machine.load(Options(), environ).sync.projects == ("prj_a", "prj_b")


_OFFICE = RateSchedule((RateWindow(9 * 3600, 18 * 3600, 2_000_000), RateWindow(22 * 3600, 0, 1024)))


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("10MB", RateSchedule.always(10_000_000)),
        ("10MB/s", RateSchedule.always(10_000_000)),
        ("1000", RateSchedule.always(1000)),
        ("null", None),
        ("[]", None),
        ('[{from: "09:00", to: "18:00", rate: 2MB}, {from: 22:00, to: "24:00", rate: 1KiB/s}]', _OFFICE),
        (
            '[{"from": "9:00", "to": "18:00", "rate": "2MB"}, {"from": "22:00", "to": "0:00", "rate": 1024}]',
            _OFFICE,
        ),
    ],
)
def test_the_rate_limit_is_one_rate_or_a_table_in_file_and_variable_alike(
    machine: Machine, text: str, table: RateSchedule | None
) -> None:
    assert machine.read(f"download:\n  rate_limit: {text}\n").download.rate_limit == table
    environ = {"FLORADL_DOWNLOAD__RATE_LIMIT": text}
    assert machine.read("download: {rate_limit: 7MB}", environ).download.rate_limit == table


def test_a_table_of_rates_may_stand_on_lines_of_its_own(machine: Machine) -> None:
    text = "download:\n  rate_limit:\n    - from: 22:00\n      to: 06:00\n      rate: 5MB\n"
    assert machine.read(text).download.rate_limit == RateSchedule(
        (RateWindow(22 * 3600, 6 * 3600, 5_000_000),)
    )


def test_null_in_a_variable_means_no_limit(machine: Machine) -> None:
    environ = {"FLORADL_DOWNLOAD__MAX_FILE_SIZE": "null"}
    assert machine.read("download: {max_file_size: 1GB}", environ).download.max_file_size is None


def test_some_folders_may_be_named_and_the_others_stay(machine: Machine) -> None:
    environ = {
        "FLORADL_OUTPUT__FOLDERS": "{video: films, audio: songs}",
        "FLORADL_OUTPUT__FOLDERS__AUDIO": "a",
    }
    folders = machine.read("output: {folders: {image: pics, video: v}}", environ).output.folders
    assert (folders.image, folders.video, folders.audio, folders.text) == ("pics", "films", "a", "text")


# Paths


def test_a_relative_path_is_relative_to_the_file_that_says_it(machine: Machine) -> None:
    config = machine.read("home: h\nqueue: {file: runs.yaml}\noutput: {dir: ../lib}\n")
    assert config.home == machine.file.parent / "h"
    assert config.queue.file == machine.file.parent / "runs.yaml"
    assert config.queue.watch_dir == machine.file.parent / "h/inbox"
    assert Path(os.path.normpath(str(config.output.dir))) == machine.root / "lib"


def test_a_relative_path_in_a_variable_or_option_is_relative_to_the_working_folder(
    machine: Machine, working_folder: Path
) -> None:
    machine.write("", working_folder / "c.yaml")
    config = machine.load(Options(config=Path("c.yaml"), home=Path("h")), {"FLORADL_OUTPUT__DIR": "lib"})
    assert config.file == working_folder / "c.yaml"
    assert config.home == working_folder / "h"
    assert config.output.dir == working_folder / "lib"


def test_a_tilde_is_the_home_folder_of_its_user(machine: Machine) -> None:
    me = pwd.getpwuid(os.getuid())
    config = machine.read(f"home: ~/f\noutput: {{dir: ~{me.pw_name}/lib}}\nstate_dir: '~'\n")
    assert config.home == machine.home / "f"
    assert config.output.dir == Path(me.pw_dir, "lib")
    assert config.state_dir == machine.home


def test_a_plain_tilde_is_null_to_yaml_and_so_the_default(machine: Machine) -> None:
    assert machine.read("state_dir: ~\nhome: ~\n").state_dir == machine.home / "flora/state"


def test_a_user_that_does_not_exist_is_an_error(machine: Machine) -> None:
    assert "state_dir: '~nobody-of-that-name/x' names a user's folder" in machine.refusal(
        "state_dir: ~nobody-of-that-name/x"
    )


def test_a_working_folder_that_is_gone_is_told(machine: Machine, working_folder: Path) -> None:
    working_folder.rmdir()
    with pytest.raises(
        ConfigError, match="FLORADL_STATE_DIR: state_dir: 's' is relative to a working folder"
    ):
        machine.load(Options(), {"FLORADL_STATE_DIR": "s"})


# Faults


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        ("api:\n  base_ulr: x", 2, "api.base_ulr: is not a setting: did you mean api.base_url?"),
        ("dwnload: {}", 1, "dwnload: is not a setting: did you mean download?"),
        ("output: {watch-dir: x}", 1, "it belongs in another section: queue.watch_dir"),
        ("queue: {watch-dir: x}", 1, "did you mean queue.watch_dir?"),
        ("concurrency: 3", 1, "it belongs in another section: download.concurrency"),
        ("log: {zzz: 1}", 1, "log.zzz: is not a setting: known here are level, format"),
        ("api: {key: sk_live_planted}", 1, "api.key_file name a file"),
        ("sk_live_planted: 1", 1, "is not a setting"),
        ("queue: 5", 1, "queue: holds keys"),
        ("[a, b]", None, "holds keys"),
        (
            "download:\n  concurrency: many",
            2,
            "'many' is not a whole number from 1 to 256; the default is 16",
        ),
        ("download: {concurrency: 0}", 1, "'0' is out of range: 1 to 256"),
        ("download: {concurrency: 257}", 1, "out of range"),
        ("download: {concurrency: 1e3}", 1, "is not a whole number"),
        ("download:\n  concurrency:\n", 2, "has no value"),
        ("download: {concurrency: [1]}", 1, "is a list to YAML"),
        ("sync: true", 1, "sync: holds keys"),
        ("sync: {generations: yes}", 1, "'yes' is neither true nor false; the default is false"),
        ("sync: {generations: true, projects: prj_a}", 1, "is not a list: write it like [prj_abc123]"),
        ("sync: {generations: true, projects: [a b]}", 1, "not a project id"),
        ("sync:\n  techniques: [a]", 2, "set sync.technique_runs or sync.generations to true"),
        ("poll: {interval: 2}", 1, "'2' has no unit: write 2s, 2m, 2h or 2d"),
        ("poll: {interval: 10ms}", 1, "out of range: 100ms to 1h"),
        ("poll: {interval: 1:30}", 1, "'1:30' is not a duration"),
        ("poll: {give_up_after: soon}", 1, "'soon' is not a duration: write it like 2s"),
        ("poll: {give_up_after: 0}", 1, "out of range"),
        ("download: {stall_timeout: 0}", 1, "out of range"),
        ("download: {max_file_size: 0}", 1, "1 B at least, or null for no limit"),
        ("download: {max_file_size: 5G}", 1, "write 5GB or 5GiB"),
        ("download: {rate_limit: 10M}", 1, "'10M' can be read two ways: write 10MB or 10MiB"),
        ("download: {rate_limit: 0}", 1, "'0' is out of range: 1 kB a second at least; null means no limit"),
        ("download: {rate_limit: fast}", 1, "'fast' is not a size"),
        ("download: {rate_limit: {from: 1:00, to: 2:00, rate: 1MB}}", 1, "a list of them belongs here"),
        ("download: {rate_limit: '[{from: 1:00}]'}", 1, "is not a list to YAML"),
        ("download:\n  rate_limit: [2MB]", 2, "has an entry 1 without from, to and rate alone"),
        ("download: {rate_limit: [{from: 1:00, to: 2:00}]}", 1, 'write it like [{from: "09:00"'),
        ("download: {rate_limit: [{from: 1:00, to: 2:00, rate: 1MB, x: 1}]}", 1, "has an entry 1 without"),
        ("download: {rate_limit: [{from: 1:00, to: 25:00, rate: 1MB}]}", 1, "'25:00' is not a time of day"),
        ("download: {rate_limit: [{from: 24:01, to: 2:00, rate: 1MB}]}", 1, "from 00:00 to 24:00"),
        ("download: {rate_limit: [{from: 9am, to: 2:00, rate: 1MB}]}", 1, "entry 1 that is wrong: '9am' is"),
        ("download: {rate_limit: [{from: , to: 2:00, rate: 1MB}]}", 1, "its time is not a time of day"),
        ("download: {rate_limit: [{from: 1:00, to: 2:00, rate: }]}", 1, "its rate is not a size"),
        ("download: {rate_limit: [{from: 1:00, to: 2:00, rate: 0}]}", 1, "'0' is out of range: 1 kB"),
        ("download: {rate_limit: [{from: 1:00, to: 1:00, rate: 1MB}]}", 1, "that ends when it begins"),
        (
            "download: {rate_limit: [{from: 0:00, to: 18:00, rate: 1MB}, {from: 9:00, to: 1:00, rate: 2kB}]}",
            1,
            "contradicts itself: entries 1 and 2 both hold at some time of day",
        ),
        ("download: {media_hosts: storage.googleapis.com}", 1, 'write it like ["storage.googleapis.com"]'),
        ("download: {media_hosts: }", 1, "or [] for none"),
        ("download: {media_hosts: ['https://x.example/']}", 1, "'https://x.example/' is no host"),
        ("download: {media_hosts: ['*.*.x']}", 1, "'*.*.x' is no pattern"),
        ("download:\n  media_hosts:\n    - a.example\n    - b c\n", 2, "'b c'"),
        ("download:\n  media_hosts: [*.flora.ai]", 2, "'*.flora.ai'"),
        ("download:\n  media_hosts:\n    -\n", 2, "put each host in quotes"),
        ("network: {trusted_private_hosts: ['*']}", 1, "each host that is trusted must be named"),
        ("network: {trusted_private_hosts: [[fe: 1]]}", 1, "put each host in quotes"),
        ("network:\n  trusted_private_hosts: [::1]", 2, "quote it"),
        ("network:\n  trusted_private_hosts:\n    - [::1]:80", 3, "- '[::1]:80'"),
        (
            "output:\n  template: {folder}/{run_id}{ext} # x",
            2,
            "quote it: template: '{folder}/{run_id}{ext}'",
        ),
        ("network: {trusted_private_hosts: [nas:99999]}", 1, "port is a number from 1 to 65535"),
        ("output: {dir: 'http://media/flora'}", 1, "neither a path nor a bucket: write s3://BUCKET/PREFIX"),
        ("output: {dir: 's3://a:planted@media'}", 1, "neither a path nor a bucket"),
        ("output: {dir: 's3://media/../x'}", 1, "one that is '.' or '..'"),
        ("output: {endpoint: 'minio:9000'}", 1, "starts with https://"),
        ("output: {endpoint: 'http://a:planted@minio:9000'}", 1, "holds a user name or password"),
        ("output: {region: 'EU central'}", 1, "is not a region: write its name"),
        ("output: {kinds: image}", 1, "output.kinds: 'image' is not a list: write it like [image, video]"),
        ("output: {kinds: [imag]}", 1, "'imag', which is none of image, video"),
        ("output: {kinds: [images]}", 1, "(did you mean image?)"),
        ("output: {kinds: [[a]]}", 1, "holds something"),
        ("output: {rules: {skip: true}}", 1, "a list of them belongs here"),
        ("output: {rules: camera-*}", 1, "is not a list of rules"),
        (
            "output:\n  rules:\n    - {output_id: a, skip: true}\n    - x\n",
            4,
            "output.rules[1]: is not a rule",
        ),
        (
            "output:\n  rules:\n    - {output_id: a, skip: true}\n    - tecnique: a\n      skip: true\n",
            4,
            "output.rules[1].tecnique: is none of the keys that a rule has: did you mean technique?",
        ),
        ("output:\n  rules:\n    - technique: a\n", 3, "output.rules[0]: does not say what to do"),
        ("output: {rules: [{skip: true, kinds: [text]}]}", 1, "has both kinds and skip: true"),
        (
            "output:\n  rules:\n    - technique: a\n      kinds: [vid]\n",
            4,
            "output.rules[0].kinds: holds 'vid'",
        ),
        ("output: {rules: [{kinds: [video]}]}", 1, "rules[0]: does not say which outputs it is for"),
        ("output: {rules: [{kinds: []}]}", 1, "for none write skip: true"),
        ("output: {rules: [{skip: maybe}]}", 1, "output.rules[0].skip: 'maybe' is neither true nor false"),
        ("output: {rules: [{output_id: , skip: true}]}", 1, "output_id: is not a pattern"),
        ("output: {mtime: complete}", 1, "is none of completed, now (did you mean completed?)"),
        ("output: {max_name_bytes: 20}", 1, "out of range"),
        (
            "output:\n  template: {folder}\n",
            2,
            "is a mapping to YAML, but one value belongs here: put it in quotes",
        ),
        ("output: {template: '{folder}/{techniqe}{ext}'}", 1, "is not a template"),
        ("output: {template: /abs/{run_id}}", 1, ""),
        ("output: {template: '../{run_id}'}", 1, "is not a template"),
        ("output:\n  folders:\n    vidoe: x", 3, "did you mean output.folders.video?"),
        ("output: {folders: {image: ../x}}", 1, "'../x' is not a folder in the library"),
        ("output: {folders: {image: /x}}", 1, "not a folder in the library"),
        ("output: {folders: {image: Runs}}", 1, "is the folder of the sidecars"),
        ("output: {folders: [a]}", 1, "output.folders: holds keys"),
        ("log: {level: verbose}", 1, "is none of debug, info, warning, error"),
        ("log: {format: yes}", 1, "'yes' is none of auto, console, json"),
        ("api: {base_url: app.flora.ai}", 1, "starts with https://"),
        ("api: {base_url: 'https://app.flora.ai:x'}", 1, "the port must be a number"),
        ("api: {base_url: 'https://u:planted@app.flora.ai'}", 1, "holds a user name or password"),
        ("api: {base_url: 'https://app.flora.ai/?k=planted'}", 1, "take out what follows the ?"),
        ("api: {base_url: 'https://a b/'}", 1, "api.base_url"),
        ("api: {base_url: 'http://flora.example/v1'}", 1, "network.trusted_private_hosts"),
        ("api: {base_url: 'https://127.0.0.1:8443/v1'}", 1, "add '127.0.0.1:8443' to network.trusted"),
        ("api: {base_url: 'https://[::1]/v1'}", 1, "add '[::1]:443' to network.trusted"),
        ("api: {base_url: 'https://flora.local/v1'}", 1, "at a private address"),
        ("api: {key_file: sk_live_planted}", 1, "holds a secret where a path belongs"),
        ("home: ''", 1, "'' is not a path"),
        ('home: "a\\tb"', 1, "is not a path"),
        ("a: 1\na: 2", 2, "stands twice"),
        ("poll:\n\tinterval: 2s", 2, "a tab indents this line"),
        ("home: *x", 1, "must be quoted"),
        ("home: a: b", 1, "quote the value"),
        ("home: h\noutput: {dir: h/inbox}", 2, "output.dir: is the watch folder too"),
        ("queue: {watch_dir: w}\nstate_dir: ../conf/w", 2, "state_dir: is the watch folder too"),
        ("queue:\n  watch_dir: w\n  file: w/runs.yaml", 3, "queue.file: lies in the watch folder"),
        ("queue: {watch_dir: w}\napi: {key_file: w/key}", 2, "api.key_file: lies in the watch folder"),
        ("queue: {watch_dir: .}", None, "lies in the watch folder"),
    ],
)
def test_a_fault_is_told_with_file_line_key_and_what_would_be_right(
    machine: Machine, text: str, line: int | None, fault: str
) -> None:
    told = machine.refusal(text)
    assert told.startswith(f"{machine.file}, line {line}: " if line else f"{machine.file}: ")
    assert fault in told
    assert "planted" not in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("FLORADL_DOWNLAOD__CONCURRENCY", "FLORADL_DOWNLOAD__CONCURRENCY"),
        ("FLORADL_DOWNLOAD__CONCURENCY", "FLORADL_DOWNLOAD__CONCURRENCY"),
        ("FLORADL_FETCH__CONCURRENCY", "FLORADL_DOWNLOAD__CONCURRENCY"),
        ("FLORADL_OUTPUT__FOLDER", "FLORADL_OUTPUT__FOLDERS"),
        ("FLORADL_API__KEY", "FLORA_API_KEY"),
        ("FLORADL_X__Y__Z", "docs/settings.md"),
        ("FLORADL__HOME", "docs/settings.md"),
    ],
)
def test_a_misspelt_variable_is_an_error_that_names_the_right_one(
    machine: Machine, name: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        machine.load(Options(), {name: "sk_live_planted"})
    assert str(caught.value).startswith(f"the variable {name}: names no setting: ")
    assert hint in str(caught.value)
    assert "planted" not in str(caught.value)


def test_a_variable_without_two_underscores_is_nobody_s_business(machine: Machine) -> None:
    assert (
        machine.load(Options(), {"FLORADL_X": "1", "FLORADL_TEST_X": "1", "FLORA__X": "1"}) == machine.load()
    )


def test_a_wrong_value_in_a_variable_names_the_variable(machine: Machine) -> None:
    with pytest.raises(
        ConfigError, match=r"^the variable FLORADL_POLL__INTERVAL: poll\.interval: 'x' is not a dur"
    ):
        machine.load(Options(), {"FLORADL_POLL__INTERVAL": "x"})
    with pytest.raises(
        ConfigError, match=r"^the variable FLORA_BASE_URL: api\.base_url: 'x' is not a web address"
    ):
        machine.load(Options(), {"FLORA_BASE_URL": "x"})


def test_all_faults_are_told_at_once_each_on_its_line(machine: Machine) -> None:
    told = machine.refusal("poll: {interval: x}\nzzz: 1\nhome: ''\n", {"FLORADL_A__B": "1"}).splitlines()
    assert len(told) == 4


def test_very_many_faults_are_cut_off(machine: Machine) -> None:
    told = machine.refusal("".join(f"zzz{number}: 1\n" for number in range(100))).splitlines()
    assert len(told) == 21
    assert told[-1] == "… and 80 more"


def test_a_hostile_key_cannot_forge_a_line_of_the_message(machine: Machine) -> None:
    told = machine.refusal('"a\\nforged: \\e[31m": 1')
    assert "\n" not in told
    assert "\x1b" not in told


def test_plain_http_is_allowed_to_a_trusted_host(machine: Machine) -> None:
    environ = {
        "FLORA_BASE_URL": "http://127.0.0.1:8080/api/v1",
        "FLORADL_NETWORK__TRUSTED_PRIVATE_HOSTS": "127.0.0.1:8080",
    }
    assert machine.load(Options(), environ).api.base_url == "http://127.0.0.1:8080/api/v1"


@given(text=st.text(max_size=60))
def test_any_text_is_a_configuration_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    machine = Machine(tmp_path_factory.getbasetemp() / "any")
    data = text.encode("utf-8", "surrogatepass")
    try:
        machine.read(data)
    except ConfigError as error:
        assert str(machine.file) in str(error)  # noqa: PT017  # both outcomes are right


_SCALARS = (
    st.none()
    | st.text(max_size=8)
    | st.integers()
    | st.sampled_from(["2s", "1GB", "16", "9:00", "info", "~", "*"])
)
_SECTION_NAMES = sorted({part for key in (*settings(), *sections()) for part in key} | {"from", "to", "rate"})


@given(
    value=st.recursive(
        _SCALARS,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(_SECTION_NAMES) | st.text(max_size=4), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_any_yaml_is_a_configuration_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    machine = Machine(tmp_path_factory.getbasetemp() / "yaml")
    try:
        machine.read(yaml.safe_dump(value, allow_unicode=True))
    except ConfigError as error:
        assert str(machine.file) in str(error)  # noqa: PT017  # both outcomes are right


def test_reading_the_configuration_loads_nothing_heavy() -> None:
    code = (
        "import sys, floradl.config.load, floradl.config.credentials\n"
        "heavy = {'httpx', 'httpcore', 'structlog', 'watchfiles', 'aiohttp', 'rich', 'asyncio'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_an_empty_home_variable_is_none(machine: Machine) -> None:
    config = load_config(Options(), {"HOME": ""}, system_file=machine.system_file)
    assert config.home == Path(pwd.getpwuid(os.getuid()).pw_dir) / "flora"
