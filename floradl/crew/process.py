"""What runs in a worker: a thread a line, each of which does one errand after the other.

A worker ends when its control line does, whoever closed it: no signal is needed, and a daemon that was killed
leaves none behind. It is in a process group of its own, so that what is pressed at a terminal does not
reach it.
"""

from __future__ import annotations

import os
import signal
import socket
import threading

from floradl import __version__
from floradl.crew.line import Line, LineLostError
from floradl.crew.messages import TO_ERRAND, TO_WORKER, Done, Errand, Heeded, NewLine, Rules, Terms, failed_by
from floradl.crew.stand_ins import CapStandIn, Reporter, SlotStandIn
from floradl.media.download import Downloader, Limits
from floradl.net.guard import Guard
from floradl.net.transport import Limits as ClientLimits, open_client

_NOWHERE = ()


def run(control: int) -> None:
    """Serve the daemon that holds the other end of the socket `control`, until it closes it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it is the daemon who is told, and who tells
    line = Line(socket.socket(fileno=control))
    try:
        terms, _ = line.receive(TO_WORKER)
        if isinstance(terms, Terms):
            _Worker(terms).serve(line)
    except LineLostError:
        return


class _Worker:
    def __init__(self, terms: Terms) -> None:
        self._guard = Guard(_NOWHERE, _NOWHERE)
        self._cap = CapStandIn()
        self._stop = threading.Event()
        self._client = open_client(
            self._guard,
            user_agent=terms.user_agent,
            limits=ClientLimits(read=terms.stall_timeout),
            throttle=self._cap,
        )
        self._downloader = Downloader(
            self._client, self._guard, Limits(None, 0, 0.0), self._stop, self._cap.own_time
        )

    def serve(self, control: Line) -> None:
        """Do as `control` says until it ends."""
        try:
            while True:
                message, fd = control.receive(TO_WORKER)
                match message:
                    case Rules():
                        self._heed(message)
                        control.send(Heeded(__version__))
                    case NewLine() if fd is not None:
                        line = Line(socket.socket(fileno=fd))
                        threading.Thread(target=self._errands, args=(line,), daemon=True).start()
                    case _:
                        raise AssertionError(message)
        finally:
            self._stop.set()
            self._client.abort()

    def _heed(self, rules: Rules) -> None:
        self._guard.change(rules.trusted_private_hosts, rules.media_hosts)
        self._client.change(rules.connections)
        self._downloader.change(rules.limits)
        self._cap.change(capped=rules.capped)

    def _errands(self, line: Line) -> None:
        self._cap.serve(line)
        try:
            while True:
                errand, fd = line.receive(TO_ERRAND)
                if fd is not None:
                    os.close(fd)
                if isinstance(errand, Errand):
                    self._do(errand, line)
        except LineLostError:
            return
        finally:
            line.close()

    def _do(self, errand: Errand, line: Line) -> None:
        try:
            with self._downloader.fetch(errand.url, SlotStandIn(errand, line), Reporter(line)) as received:
                done = Done(received.part.size, received.finding)
        except LineLostError:
            raise
        except BaseException as error:  # noqa: BLE001 - told to whoever waits for this errand
            line.send(failed_by(error))
        else:
            line.send(done)
