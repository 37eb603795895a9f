"""A rehearsal in YAML: runs, and the faults that hit them.

    url_lifetime: 30s
    runs:
      - run: run_film
        technique: camera-move
        duration: 5s
        outputs:
          - {output_id: film, type: videoUrl, size: 6MB, rate: 2MB}
      - {run: run_refused, duration: 2s, fail: {code: safety_blocked, message: The prompt was refused.}}
    faults:
      - match: {output: film}
        times: 1
        do: {cut_after: 98%}
      - match: {host: api}
        share: 0.1
        do: {status: 503, retry_after: 2}

Durations and sizes are written as in the configuration (`5s`, `6MB`), or as plain seconds and bytes. The keys
of `match` and `do` are the fields of `faults.Match` and `faults.Do`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from floradl import yaml_reader
from floradl.errors import ConfigError
from floradl.models import Reference
from floradl.simulator.faults import Do, Fault, FaultBook, Match
from floradl.simulator.runs import (
    MediaStyle,
    OutputSpec,
    ProgressStyle,
    RunKind,
    ScriptedRun,
    TimeUnit,
    WebhookSigning,
)
from floradl.simulator.state import Simulator
from floradl.units import parse_duration, parse_size
from floradl.yaml_reader import DocumentError, Value, nearest

_DURATIONS = {"duration", "age", "url_lifetime", "delay", "stall_for", "seconds"}
_SIZES = {"size", "rate", "drip", "gzip_bomb", "cut_after", "reset_after", "stall_after", "cut_json"}
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>\$.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")


class ScenarioFailure(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a run fails."""

    code: str
    message: str = "The run failed."


class ScenarioOutput(OutputSpec, frozen=True, forbid_unknown_fields=True):
    """One output of a run."""

    body: str | None = None  # type: ignore[assignment]  # a text in YAML

    def spec(self) -> OutputSpec:
        """Return it as the simulator takes it."""
        fields = msgspec.structs.asdict(self)
        return OutputSpec(**fields | {"body": None if self.body is None else self.body.encode()})


class ScenarioRun(Struct, frozen=True, forbid_unknown_fields=True):
    """One run. It was created `age` seconds ago, and takes `duration` seconds."""

    run: str | None = None
    kind: RunKind = RunKind.TECHNIQUE
    technique: str = "art-directors-critique"
    duration: float = 3.0
    age: float = 0.0
    fail: ScenarioFailure | None = None
    outputs: tuple[ScenarioOutput, ...] | None = None
    project_id: str = "prj_simulator"
    workspace_id: str = "ws_simulator"
    callback_url: str | None = None

    def __post_init__(self) -> None:
        if self.run is not None:
            Reference.of(self.run)  # raises ValueError


class Scenario(Struct, frozen=True, forbid_unknown_fields=True):
    """A whole rehearsal. Settings that are not named stay as the simulator has them."""

    runs: tuple[ScenarioRun, ...] = ()
    faults: tuple[Fault, ...] = ()
    key: str | None = None
    rate_limit: float | None = None
    rate_burst: float | None = None
    url_lifetime: float | None = None
    media_style: MediaStyle | None = None
    time_unit: TimeUnit | None = None
    progress: ProgressStyle | None = None
    page_limit: int | None = None
    listing: bool | None = None
    webhook_secrets: list[str] | None = None
    webhook_signing: WebhookSigning | None = None
    seed: str = "floradl"

    def stage(self, simulator: Simulator) -> list[Reference]:
        """Put runs, faults and settings into a simulator; return the references. Raises `ConfigError`."""
        for name, value in msgspec.structs.asdict(self).items():
            if value is not None and name not in {"runs", "faults", "seed"}:
                setattr(simulator, name, value)
        simulator.faults = FaultBook(self.faults, self.seed)
        try:
            return [_add(simulator, run) for run in self.runs]
        except ValueError as error:
            raise ConfigError(f"the scenario cannot be staged: {error}") from error


def _add(simulator: Simulator, run: ScenarioRun) -> Reference:
    technique = simulator.add_technique(run.technique) if run.kind is RunKind.TECHNIQUE else None
    if run.outputs is not None:
        outputs = tuple(output.spec() for output in run.outputs)
    else:
        outputs = technique.outputs if technique else (OutputSpec(),)
    scripted = ScriptedRun(
        run_id=run.run or simulator.new_run_id(),
        kind=run.kind,
        technique=technique,
        outputs=outputs,
        duration=run.duration / simulator.speed,
        created=simulator.now() - run.age,
        fail=(run.fail.code, run.fail.message) if run.fail else None,
        workspace_id=run.workspace_id,
        callback_url=run.callback_url,
        project_id=run.project_id,
    )
    for index, output in enumerate(outputs):
        if not output.inline and output.url is None:
            scripted.body(index)  # an impossible size shows here, not in the middle of the rehearsal
    return simulator.add(scripted)


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file. Raises `ConfigError` that names the file, the line and the key."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the scenario {path} cannot be read: {error}") from error
    return parse_scenario(text, str(path))


def parse_scenario(text: str, name: str = "scenario") -> Scenario:
    """Read the text of a scenario; `name` is how messages call it. Raises `ConfigError`."""
    try:
        document = yaml_reader.load(text)
    except DocumentError as error:
        line = f", line {error.line}" if error.line else ""
        raise ConfigError(f"{name}{line}: {error}") from error
    problems: list[str] = []
    value = _in_plain_units(document.value, (), problems, document.lines)
    if problems:
        raise ConfigError(f"{name}, {problems[0]}")
    try:
        return msgspec.convert(value or {}, Scenario, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}, {_explained(str(error), document.lines)}") from error


def _in_plain_units(
    value: Value, path: yaml_reader.Path, problems: list[str], lines: Mapping[yaml_reader.Path, int]
) -> Any:
    """Return `value` with durations and sizes as plain numbers; what is wrong with it goes to `problems`."""
    if isinstance(value, list):
        return [_in_plain_units(item, (*path, at), problems, lines) for at, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _in_plain_units(item, (*path, key), problems, lines) for key, item in value.items()}
    key = path[-1] if path else None
    if value is None or key not in _DURATIONS | _SIZES or "set" in path or re.fullmatch(r"[\d.]+%?", value):
        return value
    try:
        return str(parse_duration(value) if key in _DURATIONS else parse_size(value))
    except ValueError as error:
        problems.append(f"line {lines[path]}: {yaml_reader.dotted(path)}: {value[:40]!a} {error}")
        return value


def _explained(message: str, lines: Mapping[yaml_reader.Path, int]) -> str:
    found = _PLACE.match(message)
    what, place = (found["what"], found["path"]) if found else (message, None)
    steps = re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", place or "$")
    path: yaml_reader.Path = tuple(name or int(number) for name, number in steps)
    if unknown := _UNKNOWN.search(what):
        kind = next((_KEYS[step] for step in reversed(path) if step in _KEYS), Scenario)
        known = kind.__struct_fields__
        near = nearest(unknown["name"], known)
        hint = f"did you mean {near!r}?" if near else f"known here are {', '.join(known)}"
        what = f"this key does not exist; {hint}"
        path = (*path, unknown["name"])
    while path not in lines and path:
        path = path[:-1]
    key = yaml_reader.dotted(path)
    return f"line {lines.get(path, 1)}: {f'{key}: ' if key else ''}{what}"


_KEYS: Mapping[str | int, type[Struct]] = {
    "runs": ScenarioRun,
    "outputs": ScenarioOutput,
    "fail": ScenarioFailure,
    "faults": Fault,
    "match": Match,
    "do": Do,
}
