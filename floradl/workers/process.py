"""One worker, seen from the daemon: its process, and the lines to it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress

from floradl import __version__
from floradl.workers.protocol import (
    FROM_WORKER,
    Channel,
    ChannelClosedError,
    NewChannel,
    WorkerConfig,
    WorkerSettings,
)

_SECRETS = ("FLORA", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET")  # how what is not its business begins
_GRACE = 2.0  # seconds
_COMES_UP = 10.0  # seconds, of a machine with much to do


class WorkerProcess:
    """A process that fetches. Not for several threads at once, but for its lines.

    `busy` is how many lines are lent.
    """

    def __init__(self, terms: WorkerConfig, rules: WorkerSettings, environ: Mapping[str, str]) -> None:
        """Start it. Raises `OSError` where the machine has no room for another process."""
        self._control, theirs = Channel.pair()
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - this very program
                    # -P: what lies in the folder that the daemon was started in is no module of ours
                    [sys.executable, "-P", "-m", "floradl.workers", str(theirs.fileno())],
                    env={name: value for name, value in environ.items() if not name.startswith(_SECRETS)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    process_group=0,
                )
        except BaseException:
            self._control.close()
            raise
        self._idle: list[Channel] = []
        self._lent: set[Channel] = set()
        self._told = self._heeded = 0  # how many rules
        self._gone = False
        self._news = threading.Condition()
        self._listener = threading.Thread(target=self._listen, name="floradl-worker", daemon=True)
        self._listener.start()
        self._tell(terms)
        self.change(rules)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def busy(self) -> int:
        """How many transfers it makes now."""
        return len(self._lent)

    @property
    def is_up(self) -> bool:
        """Whether it has come up; one that is gone counts too, for it need not be waited for."""
        return self._gone or self._heeded > 0

    def get_ready(self) -> None:
        """Wait until it is up and heeds all rules. Raises `ChannelClosedError` where it is gone, or hangs."""
        with self._news:
            settled = self._news.wait_for(lambda: self._gone or self._heeded >= self._told, _COMES_UP)
            if self._gone or not settled:
                raise ChannelClosedError

    def change(self, rules: WorkerSettings) -> None:
        """Let `rules` hold for each transfer that begins from now on, and soon for those under way."""
        with self._news:
            self._told += 1
        self._tell(rules)

    def lend(self) -> Channel:
        """Lend a line, for one transfer. Where the worker is gone the line says so."""
        if self._idle:
            line = self._idle.pop()  # the one used last: its connection is the warmest
        else:
            line, theirs = Channel.pair()
            with theirs:
                self._tell(NewChannel(), theirs.fileno())
        self._lent.add(line)
        return line

    def take_back(self, line: Channel, *, good: bool) -> None:
        """Take back a line, for another transfer where it is still good."""
        self._lent.discard(line)
        if good:
            self._idle.append(line)
        else:
            line.close()

    def halt(self) -> None:
        """Make it end: whoever waits for it hears so at once. Safe to repeat."""
        for line in list(self._lent):
            line.cut()  # before it can say that its connections broke, which is how it ends
        self._control.cut()

    def end(self) -> None:
        """See it to its end, which comes by force after two seconds. Safe to repeat."""
        self.halt()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        self._control.close()
        for line in self._idle:
            line.close()
        self._idle.clear()

    def _listen(self) -> None:
        with suppress(ChannelClosedError):
            while self._control.receive(FROM_WORKER)[0].version == __version__:
                with self._news:
                    self._heeded += 1
                    self._news.notify_all()
        # It ended; or floradl was replaced by another version on disk since this daemon was started.
        self._control.cut()
        with self._news:
            self._gone = True
            self._news.notify_all()

    def _tell(self, message: WorkerConfig | WorkerSettings | NewChannel, fd: int | None = None) -> None:
        with suppress(ChannelClosedError):  # whoever has a line hears of it there
            self._control.send(message, fd)
