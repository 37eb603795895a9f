"""Hooks for tests: they write down how they were called."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from studio import Home, wait_until

_RECORD = """\
#!/bin/sh
out=$(mktemp "$1/XXXXXX.part") || exit 9
{ printf '%s\\n' "$2" "$PWD"; env | sort | tr '\\n' ' '; echo; cat; } >"$out"
mv "$out" "${out%.part}.call"
"""


class Call(NamedTuple):
    """One call: its last argument, its folder, its environment and its input."""

    argument: str
    cwd: str
    environ: str
    given: dict[str, Any]


class Hook:
    """A program in `home` that notes each call, after what `before` (a shell's text) does."""

    def __init__(self, home: Home, before: str = "") -> None:
        self._folder = home.path / "calls"
        self._folder.mkdir(exist_ok=True)
        self.file = home.path / "hook"
        self.write(before)

    @property
    def words(self) -> list[str]:
        """The command, as the configuration says it."""
        return [str(self.file), str(self._folder)]

    def write(self, before: str = "") -> None:
        """Put the program in place, whole."""
        new = self.file.with_name("hook.new")
        new.write_text(_RECORD.replace("#!/bin/sh\n", f"#!/bin/sh\n{before}\n"))
        new.chmod(0o755)
        new.rename(self.file)

    def calls(self) -> list[Call]:
        """Return the calls so far, the oldest first."""
        found = sorted(self._folder.glob("*.call"), key=lambda path: path.stat().st_mtime_ns)
        return [_read(path.read_text()) for path in found]

    def called(self, times: int = 1) -> list[Call]:
        """Wait until it was called so often."""
        calls: list[Call] = wait_until(lambda: c if len(c := self.calls()) >= times else None)
        return calls


def _read(text: str) -> Call:
    argument, cwd, environ, given = text.split("\n", 3)
    return Call(argument, cwd, environ, json.loads(given))


def configure(home: Home, **sections: Any) -> None:
    """Write the configuration file as editors do: whole, under another name first."""
    new = home.path / "new.yaml"
    new.write_text(json.dumps(sections))
    new.rename(home.path / "config.yaml")
