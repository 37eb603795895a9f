"""What FLORA calls techniques: learned from lists, and asked for once where no list has shown it.

Only looks up and remembers: whoever serves `next_wanted` sends the requests, and nobody waits for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from floradl.flora.schema import polled_technique, technique_of
from floradl.log import get_logger
from floradl.models import QueuedRun, Reference, RemoteRun, RunNames
from floradl.wakeups import Signal

_MOST = 10_000  # techniques
_MOST_UNNAMED = 1000  # runs of one
_NOTHING = RunNames()
_log = get_logger()


def named_by(run: QueuedRun, answer: RemoteRun) -> QueuedRun:
    """Return a run with what an answer says that it belongs to.

    That is part of its paths: of a run that was found to have ended before, it stays as it is.
    """
    if run.detected_at is not None:
        return run
    technique = technique_of(answer) if run.technique is None else run.technique
    names = run.names.updated(answer.names)
    if technique == run.technique and names is run.names:
        return run
    return replace(run, technique=technique, names=names)


def _is_of_another(technique: str | None, answer: RemoteRun) -> bool:
    """Whether an answer says for sure that its run is of another technique; a slug says nothing of an id."""
    if technique is None:
        return False
    named = answer.names.technique_id if technique.startswith("tech_") else polled_technique(answer)
    return (
        named is not None
        and named != technique
        and named.startswith("tech_") == technique.startswith("tech_")
    )


class TechniqueNames:
    """Id and name of each technique, by what a reference calls it: its slug or its id."""

    def __init__(self, known: Mapping[str, RunNames] | None = None) -> None:
        self._known = dict(known or {})
        self._wanted: dict[str, None] = {}
        self._unsaved: dict[str, RunNames] = {}
        self._unnamed: dict[str, list[str]] = {}  # runs that were answered for before their technique's name
        self.wrong: dict[str, str] = {}
        """Runs that FLORA has under another technique than the one that was named: a message for each."""
        self.changed = Signal()
        """Set when a technique is wanted, or is to be saved."""

    def learn(self, answer: RemoteRun) -> None:
        """Remember how a list names the technique of a run."""
        names = answer.names
        if names.technique_id is None or names.technique_name is None:
            return
        if self._knows(names.technique_id, names.technique_name):
            return
        found = RunNames(technique_id=names.technique_id, technique_name=names.technique_name)
        for technique in {names.technique_id, polled_technique(answer) or names.technique_id}:
            self.keep(technique, found)

    def _knows(self, technique: str, name: str) -> bool:
        known = self._known.get(technique)
        return known is not None and known.technique_name == name

    def keep(self, technique: str, names: RunNames) -> None:
        """Remember a technique, and have it saved; one without a name is not asked for again."""
        self._wanted.pop(technique, None)
        if len(self._known) < _MOST or technique in self._known:
            self._known[technique] = names
            if names == _NOTHING:
                self._unnamed.pop(technique, None)
            else:
                self._unsaved[technique] = names
                self.changed.set()

    def add_to(self, answer: RemoteRun, technique: str | None) -> RemoteRun:
        """Return an answer with the names of its technique, which are wanted where they are not known.

        `technique` is what a reference calls it, where the answer does not say.
        """
        if answer.names.technique_name is not None:
            return answer
        technique = technique_of(answer) or technique
        if technique is None:
            return answer
        known = self._known.get(technique)
        if known is None:
            if len(self._known) < _MOST:
                self._want(technique, answer)
            return answer
        return replace(answer, names=answer.names.updated(known))

    def _want(self, technique: str, answer: RemoteRun) -> None:
        if technique not in self._wanted:
            self._wanted[technique] = None
            self.changed.set()
        runs = self._unnamed.setdefault(technique, [])
        if answer.finished and len(runs) < _MOST_UNNAMED:
            runs.append(answer.run_id)

    def of_run(self, run: QueuedRun, answer: RemoteRun | None = None) -> RunNames:
        """Return what a run belongs to, with what is known of its technique.

        Notes it in `wrong` where the answer says that it is of another one.
        """
        if answer is not None and _is_of_another(run.technique, answer):
            self.note_wrong(run.reference, answer)
        known = self._known.get(run.technique or "")
        if known is None or run.run_id in self.wrong:
            return run.names
        # What is noted as wrong is so until the next start: then the row alone says of which it is.
        same = run.names.technique_id in {None, known.technique_id} or known.technique_id is None
        return known.updated(run.names) if same else run.names

    def note_wrong(self, reference: Reference, answer: RemoteRun) -> None:
        """Note, and log once, that FLORA has a run under another technique than the one it was named by."""
        if reference.run_id in self.wrong:
            return
        right = polled_technique(answer) or technique_of(answer)
        where = f"but under {right!a}" if right else "but it is not of a technique (a generation or action)"
        message = (
            f"FLORA has no {reference.run_id} under the technique {reference.technique!a}, {where}: it is "
            f"downloaded all the same, and kept under {reference.technique!a}, as it was named"
        )
        self.wrong[reference.run_id] = message
        _log.warning("wrong_technique", run=reference.run_id, technique=reference.technique, message=message)
        while len(self.wrong) > _MOST:
            del self.wrong[next(iter(self.wrong))]

    def take_unnamed(self, techniques: Iterable[str]) -> list[str]:
        """Return the runs that were answered for before the names of their techniques were known, once."""
        return [run_id for technique in techniques for run_id in self._unnamed.pop(technique, ())]

    def next_wanted(self) -> str | None:
        """Return a technique whose names are wanted; None where there is none."""
        return next(iter(self._wanted), None)

    def put_off(self, technique: str) -> None:
        """Have others asked for first."""
        if technique in self._wanted:
            del self._wanted[technique]
            self._wanted[technique] = None

    def take_unsaved(self) -> dict[str, RunNames]:
        """Return what is to be saved, once."""
        unsaved, self._unsaved = self._unsaved, {}
        return unsaved
