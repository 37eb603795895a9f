"""`floradl check --template`: the paths that a template gives, by runs of the library where it has some."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TextIO

from msgspec import Struct
from msgspec.structs import replace

from floradl.clock import unix_seconds
from floradl.commands.exits import Exit
from floradl.commands.streams import say
from floradl.config.settings import Config
from floradl.errors import ConfigError, FloradlError
from floradl.library.base import LibraryStore
from floradl.library.sidecar import Sidecar, names_of
from floradl.library.template import Template
from floradl.library_builder import build_library, folder_library
from floradl.models import OutputKind, QueuedRun, RemoteOutput, RunNames

_EXAMPLES = 3
_LOOKED_AT = 300  # sidecars
_CREATED, _COMPLETED = 1_795_460_580.0, 1_795_460_617.0  # 23 November 2026


class _Example(Struct, frozen=True):
    """An output with its place among its run's, when that completed and was created, and its extension."""

    run: QueuedRun
    output: RemoteOutput
    index: int
    times: tuple[float | None, float | None]
    ext: str


def check_template(config: Config, text: str, stream: TextIO) -> Exit:
    """Write three paths that the template `text` gives, that of the configuration where it is empty.

    Raises `ConfigError` where it is not a template. Nothing is changed.
    """
    try:
        parsed = Template.parse(text or config.output.template)
    except ValueError as error:
        raise ConfigError(f"--template: {text[:200]!a} is not a template: {error}") from None
    if text:
        config = replace(config, output=replace(config.output, template=text))
    found = _from(build_library(config))
    layout = folder_library(config, config.home)  # paths in it are the same wherever the library is
    examples = _chosen(found) or _MADE_UP
    say(stream, f"{config.output.template}")

    def path_of(each: _Example) -> str:
        return layout.path_of(each.run, each.output, each.index, each.times, each.ext)

    for each in examples:
        say(stream, f"  {path_of(each)}")
        say(stream, f"      {each.output.kind} {each.output.output_id} of {each.run.reference}")
    if not found:
        say(stream, "(made up: the library has no files yet)")
    shown = {each.run.run_id for each in examples}
    for line in (
        *_doubled((each for each in found if each.run.run_id in shown), path_of),
        *_unknown(parsed, found),
    ):
        say(stream, line)
    return Exit.OK


def _doubled(found: Iterable[_Example], path_of: Callable[[_Example], str]) -> Iterator[str]:
    """Tell of each run whose outputs get the same path, once."""
    taken: set[tuple[str, str]] = set()
    reported: set[str] = set()
    for each in found:
        run_id = each.run.run_id
        path = path_of(each)
        if (run_id, path) in taken and run_id not in reported:
            reported.add(run_id)
            yield (
                f"warn: outputs of {each.run.reference} share the path {path}, and are numbered -2, -3, …: "
                "{output_id} or {index} tells them apart"
            )
        taken.add((run_id, path))


def _unknown(template: Template, found: Sequence[_Example]) -> Iterator[str]:
    """Tell of each key of `meta` in the template that no run of the library has."""
    if found:
        known = {key for each in found for key in each.run.meta}
        for key in template.meta_keys():
            if key not in known:
                yield f"warn: {{meta.{key}}}: no run here has it"


def _from(library: LibraryStore) -> list[_Example]:
    """Return outputs of the library, those of runs with label and meta first."""
    try:
        sidecars = (entry.sidecar for entry in library.scan() if entry.sidecar is not None)
        found = [each for sidecar in itertools.islice(sidecars, _LOOKED_AT) for each in _examples_of(sidecar)]
    except FloradlError:  # there is no library yet
        return []
    return sorted(found, key=lambda each: (not each.run.label) + (not each.run.meta))


def _chosen(found: Sequence[_Example]) -> list[_Example]:
    """Return examples, of different kinds and techniques where there are such."""
    chosen: dict[object, _Example] = {}
    for each in found:
        chosen.setdefault(each.output.kind, each)
    for each in found:
        chosen.setdefault((each.run.technique, each.output.kind), each)
    for each in found:
        chosen.setdefault((each.run.run_id, each.output.key), each)
    examples = {(each.run.run_id, each.output.key): each for each in chosen.values()}
    return list(examples.values())[:_EXAMPLES]


def _examples_of(sidecar: Sidecar) -> Iterator[_Example]:
    times = sidecar.times
    run = QueuedRun(
        run_id=sidecar.run_id,
        technique=sidecar.technique,
        label=sidecar.label,
        queued_at=0.0,
        meta=sidecar.meta,
        names=names_of(sidecar),
    )
    moments = unix_seconds(times.completed_at), unix_seconds(times.created_at)
    for index, saved in enumerate(sidecar.outputs, 1):
        if saved.path is not None:
            output = RemoteOutput(saved.output_id, saved.type, saved.url or "")
            yield _Example(run, output, index, moments, PurePosixPath(saved.path).suffix)


def _made_up(kind: OutputKind, type_: str, ext: str, number: int) -> _Example:
    run = QueuedRun(
        run_id=f"run_abc12{number}",
        technique="art-directors-critique",
        label="spring",
        queued_at=_CREATED,
        meta={},
        names=RunNames(
            technique_id="tech_4f1d",
            technique_name="Art director's critique",
            workspace_id="ws_studio",
            project_id="prj_spring",
            model_id="model-1",
        ),
    )
    url = f"https://media.flora.ai/{kind}-{number}{ext}"
    output = RemoteOutput(f"output_{number}", type_, url)
    return _Example(run, output, number, (_COMPLETED, _CREATED), ext)


_MADE_UP = [
    _made_up(OutputKind.IMAGE, "imageUrl", ".png", 1),
    _made_up(OutputKind.VIDEO, "videoUrl", ".mp4", 2),
    _made_up(OutputKind.TEXT, "text", ".txt", 3),
]
