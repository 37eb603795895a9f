"""Whether the key may be of another workspace: FLORA knows none of the runs that it is asked about. Pure."""

from __future__ import annotations

_ENOUGH = 5  # different runs in a row


class WrongWorkspaceCheck:
    """Notes how FLORA answers about runs, since the start or since the key changed."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._missing: set[str] = set()
        self._known = False

    def asked_with(self, key: str) -> None:
        """Note the key of a request; with another one all begins anew."""
        if key != self._key:
            self._key = key
            self._missing.clear()
            self._known = False

    def found(self) -> None:
        """Note that FLORA knows a run: the key is of the right workspace."""
        self._known = True
        self._missing.clear()

    def missing(self, run_id: str) -> None:
        """Note that FLORA knows no such run."""
        if not self._known:
            self._missing.add(run_id)

    @property
    def hint(self) -> str | None:
        """What to tell a person; None while there is no reason for doubt."""
        if len(self._missing) < _ENOUGH:
            return None
        return (
            "FLORA knows none of the runs that it was asked about so far (404, not_found): the key may be of "
            "another workspace than they are; put the right one in place, then 'floradl retry --failed'"
        )
