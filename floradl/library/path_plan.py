"""The path that an output gets: the template filled with what is known of its run. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping

from msgspec import Struct

from floradl.fs.names import SafeName
from floradl.library.template import NameFields, Template
from floradl.models import OutputKind, QueuedRun, RemoteOutput

_DATED = ("date", "year", "month", "day", "created")


class UnnamedOutput(Struct, frozen=True):
    """An output to be named. `index` counts from 1; `times` are when its run completed and was created."""

    run: QueuedRun
    output: RemoteOutput
    index: int
    times: tuple[float | None, float | None] = (None, None)


class PathPlan:
    """How a library lays its files out: the template, the folder of each kind, the longest name in bytes."""

    def __init__(self, template: Template, folders: Mapping[OutputKind, str], max_name_bytes: int) -> None:
        self.template = template
        self.folders = folders
        self.max_name_bytes = max_name_bytes
        self._is_dated = template.names(*_DATED)

    @classmethod
    def parse(cls, template: str, folders: Mapping[OutputKind, str], max_name_bytes: int) -> PathPlan:
        """Return the plan of a template as it is written. Raises `ValueError`."""
        return cls(Template.parse(template), folders, max_name_bytes)

    def fields(self, planned: UnnamedOutput) -> NameFields:
        """Return the values of the template's fields."""
        run, output = planned.run, planned.output
        completed, created = planned.times if self._is_dated else (None, None)
        return NameFields(
            folder=self.folders[output.kind],
            kind=output.kind,
            type=output.type,
            technique=run.technique,
            run_id=run.run_id,
            output_id=output.output_id,
            index=planned.index,
            label=run.label,
            date=_local_time(completed),
            created=_local_time(created),
            names=run.names,
            meta=run.meta,
            url=output.url,
        )

    def candidates(self, fields: NameFields) -> Callable[[str, int], tuple[SafeName, ...]]:
        """Return what gives the components of the path for an extension and the number of a candidate."""
        return self.template.fill(fields, self.max_name_bytes).path

    def parts(self, fields: NameFields, ext: str, distinct: int = 1) -> tuple[SafeName, ...]:
        """Return the components of the path, see `Template.render`."""
        return self.template.render(fields, ext, self.max_name_bytes, distinct)

    def path(self, planned: UnnamedOutput, ext: str, distinct: int = 1) -> str:
        """Return the path with `/` of an output with the extension `ext`, the `distinct`-th candidate."""
        return "/".join(self.parts(self.fields(planned), ext, distinct))


def _local_time(seconds: float | None) -> dt.datetime | None:
    try:
        return dt.datetime.fromtimestamp(seconds).astimezone() if seconds else None
    except (ValueError, OverflowError, OSError):  # out of the calendar's range
        return None
