"""A scenario file says which runs there are and which faults hit them, and what is wrong with it is named."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st
from msgspec import Struct

from floradl.cli import floradl
from floradl.commands.demo import DEMO
from floradl.errors import ConfigError
from floradl.simulator import Do, MediaStyle, RunKind, Simulator
from floradl.simulator.faults import Facts, Fault, Match
from floradl.simulator.scenario import Scenario, ScenarioOutput, ScenarioRun, load_scenario, parse_scenario

FULL = """\
url_lifetime: 30s
media_style: s3
time_unit: ms
progress: lumpy
rate_limit: 2.5
listing: no-not-this
runs:
  - run: run_film
    technique: camera-move
    duration: 5s
    age: 1m
    outputs:
      - {output_id: film, type: videoUrl, size: 6MB, rate: 2MB, headers: {ETag: null, X-A: b}}
      - {output_id: note, type: text, text: 0123}
  - {run: run_refused, kind: generation, fail: {code: safety_blocked, message: Refused.}}
faults:
  - match: {output: film, resumed: false}
    times: 1
    per: output
    do: {cut_after: 98%, delay: 250ms}
  - do: {set: {size: 5s}, html: true, headers: {Retry-After: null}}
""".replace("listing: no-not-this\n", "listing: false\n")


def staged(text: str) -> Simulator:
    simulator = Simulator(now=lambda: 1_000.0, speed=2)
    parse_scenario(text).stage(simulator)
    return simulator


def test_a_scenario_sets_the_stage() -> None:
    simulator = staged(FULL)
    assert (simulator.url_lifetime, simulator.media_style) == (30, MediaStyle.S3)
    assert simulator.progress == "lumpy"
    assert (simulator.time_unit, simulator.rate_limit, simulator.listing) == ("ms", 2.5, False)
    film = simulator.run("run_film")
    assert film is not None
    assert (film.duration, film.created) == (2.5, 940)
    assert film.technique is not None
    assert film.technique.slug == "camera-move"
    assert film.body(0).size == 6_000_000
    assert film.outputs[0].rate == 2_000_000
    assert film.outputs[0].headers == {"ETag": None, "X-A": "b"}
    assert film.outputs[1].text == "0123"
    refused = simulator.run("run_refused")
    assert refused is not None
    assert refused.kind is RunKind.GENERATION
    assert refused.fail == ("safety_blocked", "Refused.")


def test_faults_of_a_scenario_hit() -> None:
    simulator = staged(FULL)
    facts = Facts(host="media", method="GET", path="/x", run_id="run_film", output_id="film")
    picked = [simulator.faults.pick(facts, 0) for _request in range(2)]
    assert picked[0] == Do(cut_after="98%", delay=0.25)
    assert picked[1] == Do(set={"size": "5s"}, html=True, headers={"Retry-After": None})


def test_an_empty_scenario_changes_nothing() -> None:
    simulator = staged("")
    assert simulator.listing
    assert simulator.rate_limit is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("faults:\n- do: {cut_aftr: 5}\n", r"line 2: faults\[0\].do.cut_aftr: .*did you mean 'cut_after'"),
        (
            "runs:\n- outputs: [{id: a}]\n",
            r"outputs\[0\].id: .*; known here are output_id, type,",
        ),
        ("runs:\n- outputs: [{rates: 5}]\n", r"outputs\[0\].rates: .*did you mean 'rate'"),
        ("keys: x\n", r"line 1: keys: .*did you mean 'key'"),
        ("faults:\n- do:\n    html: perhaps\n", r"line 3: faults\[0\].do.html: Expected `bool`"),
        ("faults:\n- do:\n    cut_after: half\n", r"line 3: faults\[0\].do.cut_after: 'half' is not a size"),
        ("faults:\n- match: {host: api}\n", r"line 2: faults\[0\]: .*missing required field `do`"),
        ("runs:\n- duration: 5x\n", r"line 2: runs\[0\].duration: '5x'"),
        ("runs:\n- run: film\n", r"line 2: runs\[0\]: .*starts with 'run_'"),
        ("runs:\n- {run: run_a}\n- {run: run_a}\n", "there is a run 'run_a' already"),
        ("runs:\n- outputs: [{size: 5}]\n", "the smallest has"),
        ("runs: [\n", "line"),
        ("media_style: azure\n", "line 1: media_style: Invalid enum value 'azure'"),
        ("- runs\n", "line 1: Expected `object`"),
    ],
)
def test_what_is_wrong_is_named_with_line_and_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        staged(text)


@given(st.text())
def test_any_text_is_a_scenario_or_an_error_in_words(text: str) -> None:
    try:
        parse_scenario(text)
    except ConfigError as error:
        message = str(error)
    else:
        return
    assert message.startswith("scenario")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml cannot be read"):
        load_scenario(tmp_path / "nothing.yaml")


def test_a_file_is_read_with_or_without_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text("page_limit: 3\n", encoding="utf-8-sig")
    assert load_scenario(path).page_limit == 3


def test_the_demo_has_a_dozen_runs_of_every_kind_and_one_that_fails() -> None:
    simulator = Simulator(now=lambda: 0.0)
    references = parse_scenario(DEMO).stage(simulator)
    runs = [run for reference in references if (run := simulator.run(reference.run_id))]
    assert len(runs) == len(set(references)) == 12
    assert [run.fail[0] for run in runs if run.fail] == ["safety_blocked"]
    assert {output.type for run in runs for output in run.outputs} == {
        "imageUrl", "videoUrl", "audioUrl", "documentUrl", "text",
    }  # fmt: skip
    assert {run.kind for run in runs} == {RunKind.TECHNIQUE, RunKind.GENERATION}
    assert all(1 <= run.duration <= 8 for run in runs)
    sizes = [output.size for run in runs for output in run.outputs if output.size]
    assert min(sizes) >= 50_000
    assert max(sizes) == 6_000_000
    assert sum(len(run.body(at).read(0, 1)) for run in runs for at in range(len(run.outputs))) > 12


GUIDE = Path(__file__).parents[1] / "docs" / "simulator.md"


def test_the_scenario_of_the_guide_can_be_staged() -> None:
    text = GUIDE.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    simulator = staged(text)
    assert simulator.run("run_film") is not None
    assert simulator.key == "sk_test_rehearsal"


def test_the_malformed_answers_of_the_guide_can_be_staged() -> None:
    text = GUIDE.read_text(encoding="utf-8").split("```yaml\n")[2].split("```")[0]
    assert staged(text).faults.pick(Facts(host="api", method="GET", path="/", run_id="run_film"), 0.0)


@pytest.mark.parametrize("struct", [Scenario, ScenarioRun, ScenarioOutput, Fault, Match, Do])
def test_the_guide_names_every_key(struct: type[Struct]) -> None:
    named = set(re.findall(r"\w+", GUIDE.read_text(encoding="utf-8")))
    assert set(struct.__struct_fields__) <= named


# As a user writes it, with units -> as the simulator has it
DEEDS = {
    "delay": ("250ms", 0.25),
    "reset": ("true", True),
    "status": ("402", 402),
    "code": ("insufficient_credits", "insufficient_credits"),
    "body": ('"{}"', "{}"),
    "html": ("true", True),
    "retry_after": ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT"),
    "redirect": ("http://169.254.169.254/latest", "http://169.254.169.254/latest"),
    "expire": ("true", True),
    "headers": ("{Content-Type: null, ETag: W/x}", {"Content-Type": None, "ETag": "W/x"}),
    "framing": ("chunked", "chunked"),
    "wrong_length": ("-3", -3),
    "cut_after": ("98%", "98%"),
    "reset_after": ("64kB", "64000"),
    "stall_after": ("1MiB", "1048576"),
    "stall_for": ("1m", 60.0),
    "drip": ("10kB", 10_000.0),
    "gzip": ("true", True),
    "gzip_bomb": ("300MB", 300_000_000),
    "ignore_range": ("true", True),
    "wrong_content_range": ("7", 7),
    "weak_etag": ("true", True),
    "change_content": ("true", True),
    "keep_etag": ("true", True),
    "corrupt": ("true", True),
    "unknown_status": ("dreaming", "dreaming"),
    "missing_field": ("status", "status"),
    "wrong_type": ("outputs.url", "outputs.url"),
    "set": ('{progress: 101, outputs.type: holoUrl, "output_id": "../x"}', None),
    "camel_case": ("true", True),
    "accepted": ("true", True),
    "cut_json": ("50%", "50%"),
}
MATCHES = {
    "host": ("media", "media"),
    "method": ("get", "get"),
    "path": ("'*/runs/*'", "*/runs/*"),
    "run": ("run_*", "run_*"),
    "technique": ("campaign", "campaign"),
    "output": ("film", "film"),
    "resumed": ("true", True),
}
RULES = {
    "times": ("3", 3),
    "per": ("output", "output"),
    "after": ("2", 2),
    "share": ("0.1", 0.1),
    "seconds": ("1m", 60.0),
}


def yaml_of(entries: dict[str, tuple[str, object]], indent: str) -> str:
    return "".join(f"{indent}{key}: {text}\n" for key, (text, _) in entries.items())


def test_every_key_of_a_fault_can_be_written_in_a_scenario(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(
        f"faults:\n  - match:\n{yaml_of(MATCHES, '      ')}{yaml_of(RULES, '    ')}"
        f"    do:\n{yaml_of(DEEDS, '      ')}"
    )
    (fault,) = load_scenario(path).faults
    for struct, entries in ((fault.do, DEEDS), (fault.match, MATCHES), (fault, RULES)):
        for key, (_, value) in entries.items():
            if value is not None:
                assert (key, getattr(struct, key)) == (key, value)
    assert fault.do.set == {"progress": "101", "outputs.type": "holoUrl", "output_id": "../x"}


def test_the_table_above_has_every_key() -> None:
    assert set(DEEDS) == set(Do.__struct_fields__)
    assert set(MATCHES) == set(Match.__struct_fields__)
    assert set(RULES) | {"match", "do"} == set(Fault.__struct_fields__)


@pytest.mark.parametrize("key", list(DEEDS))
def test_the_command_line_takes_a_scenario_with_any_fault(tmp_path: Path, key: str) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(f"runs: [{{run: run_a, duration: 0s}}]\nfaults:\n  - do:\n      {key}: {DEEDS[key][0]}\n")
    # The command of `floradl simulate`, up to where it would serve: the port is taken.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        call = ["simulate", "--port", port, "--scenario", str(path)]
        done = CliRunner().invoke(floradl, call)
    assert isinstance(done.exception, ConfigError)
    assert f"port {port}" in str(done.exception)
