"""Which outputs of a run are wanted: by `output.kinds`, `output.rules`, and the kinds that a run names. Pure.

The strongest counts alone: a run's own kinds, else the first rule that matches, else `output.kinds`. What is
left out stands in the run's sidecar with the reason, and is no failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase

from msgspec import Struct
from msgspec.structs import replace

from floradl.models import (
    OutputKind,
    QueuedRun,
    Reference,
    RemoteOutput,
    RemoteRun,
    SavedOutput,
    Skipped,
    SkipReason,
)
from floradl.urls import is_only_url, strip_query


class OutputRule(Struct, frozen=True):
    """What holds for the outputs whose technique and id match; a pattern that is None matches all.

    In patterns `*`, `?` and `[abc]` are as in a shell, and capitals do not matter. `kinds` are those wanted;
    none means all. With `skip` nothing is wanted.
    """

    technique: str | None = None
    output_id: str | None = None
    kinds: tuple[OutputKind, ...] = ()
    skip: bool = False

    def is_for(self, techniques: tuple[str, ...]) -> bool:
        """Whether it may hold for outputs of a technique that has these names, which are in lower case."""
        if self.technique is None:
            return True
        pattern = self.technique.casefold()
        return any(fnmatchcase(name, pattern) for name in techniques)

    def names(self, output: RemoteOutput) -> bool:
        """Whether it may hold for `output`, by its id."""
        return self.output_id is None or fnmatchcase(output.output_id.casefold(), self.output_id.casefold())


class OutputPlan(Struct, frozen=True):
    """What becomes of the outputs that an answer lists: which are fetched, and of the others what is known.

    `kept` are on disk and stay as they are; `skipped` are left out. Both are by `RemoteOutput.key`.
    """

    wanted: tuple[RemoteOutput, ...]
    kept: dict[str, SavedOutput] = {}
    skipped: dict[str, SavedOutput] = {}


class Selection(Struct, frozen=True):
    """Which outputs are wanted where the run does not say; no `kinds` means all.

    `max_file_size` is in bytes: larger ones are left out. None means no limit.
    """

    kinds: tuple[OutputKind, ...] = ()
    rules: tuple[OutputRule, ...] = ()
    max_file_size: int | None = None

    def plan(
        self,
        run: QueuedRun,
        answer: RemoteRun,
        told: Mapping[str, SavedOutput],
        existing: Mapping[str, SavedOutput],
    ) -> OutputPlan:
        """Decide about the outputs of `answer`.

        `told` is what an earlier sidecar says, by key, and `existing` what of it is on disk. What was left
        out before stays so, unless the run names its kind, or is retried, being done (`force`) or in part:
        then what is wanted of it by now is fetched, or, where nothing is, all of a done one anew. What is on
        disk and not wanted stays. What was removed stays so, unless a done run is retried, or its kind is.
        """
        reasons = self._left_out(run, answer)
        if run.wanted_kinds:  # it asks for more; what a sidecar vouched for is not given up by that
            had = {key for key, output in told.items() if output.path is not None and key not in existing}
            reasons = {key: reason for key, reason in reasons.items() if key not in had}
        if not told and not reasons and self.max_file_size is None:
            return OutputPlan(answer.outputs)
        removed = {key: output for key, output in told.items() if output.removed is not None}
        before = removed | {key: output for key, output in told.items() if output.skipped is not None}
        retried = run.force or any(output.error is not None for output in told.values())
        again = {
            output.key
            for output in answer.outputs
            if output.key in before
            and output.key not in reasons
            and (
                run.force or output.kind in run.retry_kinds
                if output.key in removed
                else retried or output.kind in run.wanted_kinds
            )
            and self._may_fit(before[output.key])
        }
        anew = run.force and not again
        wanted: list[RemoteOutput] = []
        kept: dict[str, SavedOutput] = {}
        left_out: dict[str, SavedOutput] = {}
        for output in answer.outputs:
            key, reason = output.key, reasons.get(output.key)
            if key in existing and (reason is not None or not anew):
                kept[key] = existing[key]
            elif key in removed and key not in again:
                left_out[key] = replace(removed[key], error=None)  # of a retry that failed
            elif reason is not None:
                left_out[key] = skipped(output, reason)
            elif key in before and key not in again:
                left_out[key] = before[key]
            elif self._is_long(output):
                left_out[key] = skipped(output, SkipReason.TOO_LARGE, known_size(output))
            else:
                wanted.append(output)
        return OutputPlan(tuple(wanted), kept, left_out)

    def _left_out(self, run: QueuedRun, answer: RemoteRun) -> dict[str, SkipReason]:
        """Return which outputs are of a kind, or under a rule, that is not wanted, by key."""
        if kinds := run.wanted_kinds:
            return {output.key: SkipReason.KIND for output in answer.outputs if output.kind not in kinds}
        if not self.kinds and not self.rules:
            return {}
        techniques = _techniques(run, answer) if self.rules else ()
        rules = [rule for rule in self.rules if rule.is_for(techniques)]
        reasons = ((output.key, self._reason(rules, output)) for output in answer.outputs)
        return {key: reason for key, reason in reasons if reason is not None}

    def _reason(self, rules: Sequence[OutputRule], output: RemoteOutput) -> SkipReason | None:
        rule = next((rule for rule in rules if rule.names(output)), None)
        if rule is not None and rule.skip:
            return SkipReason.RULE
        kinds = self.kinds if rule is None else rule.kinds
        return SkipReason.KIND if kinds and output.kind not in kinds else None

    def _may_fit(self, before: SavedOutput) -> bool:
        """Whether an output that was left out `before` is not known to be too large now."""
        if before.skipped is None or before.skipped.reason is not SkipReason.TOO_LARGE:
            return True
        return not (self.max_file_size and before.bytes and before.bytes > self.max_file_size)

    def _is_long(self, output: RemoteOutput) -> bool:
        size = known_size(output) if self.max_file_size is not None else None
        return size is not None and self.max_file_size is not None and size > self.max_file_size


def known_size(output: RemoteOutput) -> int | None:
    """Return the bytes of an output that stands in the answer itself, a text; None for all others."""
    if output.kind is not OutputKind.TEXT or is_only_url(output.url):
        return None
    return len(output.url.encode("utf-8", "replace"))


def _techniques(run: QueuedRun, answer: RemoteRun) -> tuple[str, ...]:
    """Return all names of a run's technique that are known, in lower case: slug, id and FLORA's name."""
    names = [run.technique]
    if run.technique is None and answer.poll_url is not None:
        with suppress(ValueError):
            names.append(Reference.parse(answer.poll_url).technique)
    for each in (run.names, answer.names):
        names += [each.technique_id, each.technique_name]
    return tuple(dict.fromkeys(name.casefold() for name in names if name))


def asks_for_more(run: QueuedRun, outputs: Iterable[SavedOutput]) -> bool:
    """Whether a run names a kind of which one of `outputs`, those of its sidecar, was left out."""
    return any(output.skipped is not None and output.kind in run.wanted_kinds for output in outputs)


def skipped(output: RemoteOutput, reason: SkipReason, size: int | None = None) -> SavedOutput:
    """Return what the sidecar says of an output that was left out; `size` is in bytes, if it is known."""
    url = strip_query(output.url.strip()) if is_only_url(output.url) else None
    return SavedOutput(
        output_id=output.output_id,
        type=output.type,
        kind=output.kind,
        bytes=size,
        url=url,
        skipped=Skipped(reason),
    )
