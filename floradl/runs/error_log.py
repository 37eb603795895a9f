"""Which runs are in which trouble, so that what many of them meet is told once. Pure."""

from __future__ import annotations

from enum import Enum

from floradl.errors import ErrorCode

_TOLD = 5  # runs in the same trouble that are told one by one


class LoggedError(Enum):
    """What is worth a line when a run meets trouble."""

    RUN = "run"
    MORE = "more"  # that further runs are in it, too
    NOTHING = "nothing"  # it is known, of this run or of enough others


class ErrorLog:
    """Follows the runs. A trouble lasts from the first run that meets it until none is in it any more."""

    def __init__(self) -> None:
        self._of: dict[str, ErrorCode] = {}
        self._in: dict[ErrorCode, set[str]] = {}
        self._told: dict[ErrorCode, int] = {}

    def met(self, run_id: str, code: ErrorCode) -> LoggedError:
        """Note that a run is in trouble."""
        if self._of.get(run_id) is code:
            return LoggedError.NOTHING
        self.over(run_id)
        self._of[run_id] = code
        self._in.setdefault(code, set()).add(run_id)
        told = self._told[code] = self._told.get(code, 0) + 1
        if told <= _TOLD:
            return LoggedError.RUN
        return LoggedError.MORE if told == _TOLD + 1 else LoggedError.NOTHING

    def over(self, run_id: str) -> ErrorCode | None:
        """Note that a run is out of trouble; returns which trouble ends with it, where many were in it."""
        code = self._of.pop(run_id, None)
        if code is None:
            return None
        self._in[code].discard(run_id)
        if self._in[code]:
            return None
        del self._in[code]
        return code if self._told.pop(code) > 1 else None
