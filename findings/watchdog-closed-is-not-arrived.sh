#!/usr/bin/env bash
# One would expect: watchdog's "closed" event says that a file is complete, so that a handler which waits for it misses none.
# What happens: it comes for a file that is written in the folder, and for none that is moved or linked in, though such a
#   file is complete at once: it has "created" alone, which for a written file comes too early. So do the files in a folder
#   that is moved in. A file that is renamed from `part` had its "closed" under the old name. PollingObserver, the one for
#   network drives, never sends "closed".
# Version: PyPI watchdog 7.1.0, on Linux.
# Why it matters: careful programs write elsewhere and move; these are the very files that `on_closed` never sees.
# Instead: handle "closed" and "moved", and after "created" alone look again whether size and time stand still.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check watchdog==7.1.0
cd "$work"
venv/bin/python - <<'PY'
import os
import queue
import tempfile
from importlib.metadata import version
from itertools import count
from pathlib import Path

from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver

print("watchdog", version("watchdog"))


def written(outside, watched):
    (watched / "file").write_text("x")


def moved_in(outside, watched):
    (outside / "file").write_text("x")
    os.rename(outside / "file", watched / "file")


def linked_in(outside, watched):
    (outside / "file").write_text("x")
    os.link(outside / "file", watched / "file")


def folder_moved_in(outside, watched):
    (outside / "folder").mkdir()
    (outside / "folder" / "file").write_text("x")
    os.rename(outside / "folder", watched / "folder")


def renamed_from_part(outside, watched):
    (watched / "part").write_text("x")
    os.rename(watched / "part", watched / "file")


def events(observer, case):
    """Return the types of the events that name the file, in their order."""
    arrived, types, number = queue.Queue(), [], count()
    handler = FileSystemEventHandler()
    handler.on_any_event = lambda event: arrived.put((event.event_type, Path(event.dest_path or event.src_path).name))

    def settle():
        """Make marks until one is reported: what was done before it has been reported then."""
        while True:
            mark = f"mark{next(number)}"
            (watched / mark).write_text("x")
            try:
                while (event := arrived.get(timeout=1))[1] != mark:
                    types.extend([event[0]] if event[1] == "file" else [])
                return
            except queue.Empty:
                continue

    outside, watched = Path(tempfile.mkdtemp(dir=".")), Path(tempfile.mkdtemp(dir="."))
    observer.schedule(handler, str(watched), recursive=True)
    observer.start()
    settle()
    case(outside, watched)
    settle()
    settle()  # a polling observer reports one look's changes in no order
    observer.stop()
    observer.join()
    return types


cases = (written, moved_in, linked_in, folder_moved_in, renamed_from_part)
for case in cases:
    inotify, polling = events(Observer(), case), events(PollingObserver(timeout=0.1), case)
    print(f"{case.__name__:17} Observer: {inotify}; PollingObserver: {polling}")
    assert ("closed" in inotify) == (case is written) and "closed" not in polling
    assert inotify == ["created", "opened", "modified", "closed"] if case is written else inotify[0] in ("created", "moved")
PY
echo "As stated: what is moved in has no closed event."
