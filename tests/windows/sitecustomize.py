"""Makes a Python that is started with this folder in PYTHONPATH take itself for one of Windows."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec

_ABSENT = frozenset({"fcntl", "grp", "pwd", "termios", "tty", "resource", "pty", "syslog"})


class _Absent:
    """Finds none of the modules that Windows lacks."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Refuse them, and leave all others to whoever is next."""
        if name in _ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


for _name in _ABSENT:
    sys.modules.pop(_name, None)
sys.meta_path.insert(0, _Absent)
sys.platform = "win32"
