"""One worker, seen from the daemon: its process, and the channels to it."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Condition, Thread

from msgspec.structs import replace

from floradl import __version__
from floradl.redaction import BUCKET_VARIABLES
from floradl.workers.protocol import FROM_WORKER, Channel, ChannelClosedError, FetchRequest, WorkerSettings

# How the names of variables begin that a worker must not know.
_SECRETS = ("FLORA", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", *BUCKET_VARIABLES)
_GRACE = 2.0  # seconds
_COMES_UP = 10.0  # seconds, of a machine with much to do


class WorkerProcess:
    """A process that downloads. From any thread, but `change`, `assign`, `halt` and `end` for one at a time.

    `busy` is how many transfers it has, which its owner counts; `demand` is what it reported last, see
    `SettingsApplied`.
    """

    def __init__(
        self, settings: WorkerSettings, environ: Mapping[str, str], applied: Callable[[], None] = lambda: None
    ) -> None:
        """Start it. Raises `OSError` where the machine has no room for another process.

        `applied` is called, from another thread, each time it has applied settings.
        """
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
        self.busy = 0
        self.demand: float | None = None
        self._applied = applied
        self._settings = settings  # as sent last
        self._rates = deque([0.0])  # that it reads at, and then those sent that it has not applied yet
        self._channels: set[Channel] = set()
        self._up = self._gone = False
        self._changed = Condition()
        self._listener = Thread(target=self._listen, name="floradl-worker", daemon=True)
        self._listener.start()
        self._send_settings(settings)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def is_up(self) -> bool:
        """Whether it has come up; one that is gone counts too, for it need not be waited for."""
        return self._gone or self._up

    @property
    def is_settled(self) -> bool:
        """Whether it has applied all settings."""
        return len(self._rates) == 1

    @property
    def rate(self) -> float:
        """The bytes a second that it may read at now, for all that is known; infinite for no limit."""
        with self._changed:
            return max(self._rates)

    def wait_until_up(self) -> None:
        """Wait until it takes requests. Raises `ChannelClosedError` where it is gone, or hangs."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.is_up, _COMES_UP) or self._gone:
                raise ChannelClosedError

    def change(self, settings: WorkerSettings) -> None:
        """Let `settings`, but for their rate, hold for new transfers, and soon for those under way."""
        self._send_settings(replace(settings, rate=self._settings.rate))

    def assign(self, rate: float) -> None:
        """Let it read `rate` bytes a second from now on, infinite for no limit; it reports its demand."""
        self._send_settings(replace(self._settings, rate=None if rate == math.inf else int(rate)))

    @contextmanager
    def transfer(self, request: FetchRequest) -> Iterator[Channel]:
        """Have it download; give the transfer's channel, at whose end that ends.

        Raises `ChannelClosedError` where it is gone, and `MessageTooLongError`.
        """
        channel, theirs = Channel.pair()
        with self._changed:
            self._channels.add(channel)
        try:
            with theirs:
                self._control.send(request, theirs.fileno())
            yield channel
        finally:
            with self._changed:
                self._channels.discard(channel)
            channel.close()

    def halt(self) -> None:
        """Make it end: whoever waits for it is woken at once. Safe to repeat."""
        with self._changed:
            for channel in self._channels:
                channel.cut()  # before it can report that its connections broke, which is how it ends
        self._control.cut()

    def end(self) -> None:
        """Halt it, and wait for its end, which comes by force after two seconds. Safe to repeat."""
        self.halt()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        self._control.close()

    def _send_settings(self, settings: WorkerSettings) -> None:
        self._settings = settings
        with self._changed:
            self._rates.append(math.inf if settings.rate is None else settings.rate)
        with suppress(ChannelClosedError):  # each transfer finds that out by itself
            self._control.send(settings)

    def _listen(self) -> None:
        with suppress(ChannelClosedError):
            while (message := self._control.receive(FROM_WORKER)[0]).version == __version__:
                with self._changed:
                    if len(self._rates) > 1:
                        self._rates.popleft()
                    self._up, self.demand = True, message.demand
                    self._changed.notify_all()
                self._applied()
        # It ended; or floradl was replaced by another version on disk since this daemon was started.
        self._control.cut()
        with self._changed:
            self._gone = True
            self._changed.notify_all()
