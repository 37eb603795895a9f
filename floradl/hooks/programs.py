"""What a hook's command runs: the program that it names, and the script that this is to read.

A hook has this user's rights, and so has whoever could write or replace one of them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from floradl.disk.rights import exposure

_INTERPRETERS = re.compile(
    r"(?:ba|da|a|k|z|fi)?sh|env|busybox|(?:python|pypy|perl|ruby|node|nodejs|php|lua|tclsh|java|deno|bun|Rscript)"
    r"[\d.]*|nice|ionice|nohup|setsid|timeout|flock|chrt|stdbuf"
)


def program_of(words: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Return the absolute path of a command's program, None where there is none that can be executed."""
    found = shutil.which(words[0], path=environ.get("PATH", os.defpath))
    return None if found is None else os.path.abspath(found)  # noqa: PTH100 - a link's name tells what it is


def exposed(words: Sequence[str], environ: Mapping[str, str], cwd: str) -> str | None:
    """Say which of what a command runs others could write or replace, and the mend; None where nobody could.

    `cwd` is where it is to run. What is not there (yet), or cannot be looked at, is nobody's fault here.
    """
    for file in _files(words, environ, cwd):
        try:
            found = exposure(file)
        except OSError:
            continue
        if found is not None:
            return f"{str(file)!a} is not run: {found}"
    return None


def _files(words: Sequence[str], environ: Mapping[str, str], cwd: str) -> Iterator[Path]:
    program = program_of(words, environ)
    if program is None:
        # One that others may put there would be theirs.
        if "/" in words[0]:
            yield Path(words[0])
        return
    yield Path(program)
    if not _INTERPRETERS.fullmatch(os.path.basename(program)):  # noqa: PTH119
        return
    for word in words[1:]:
        script = Path(cwd, word)
        try:
            is_file = script.is_file()
        except (OSError, ValueError):  # a script's text, too long for a name
            continue
        if is_file:
            yield script
            return
