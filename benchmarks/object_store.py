"""How fast and how frugal a library in a bucket is, beside its client library alone.

    AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… .venv/bin/python -m benchmarks.object_store \
        s3://BUCKET/PREFIX [ENDPOINT] [--quick]

Small outputs (100 kB) are saved as the daemon saves them, in batches, and put by the client library from as
many threads; large ones (1 GiB) are written in pieces of 1 MiB, hashed as a download is, while memory is
looked at. Each is done three times, in turn; the median counts.
"""

from __future__ import annotations

import hashlib
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from floradl.download.checksums import ChecksumSet
from floradl.library.base import StreamingSink
from floradl.library.batch_writer import BatchWriter
from floradl.library.object_access import StoreAccess
from floradl.library.object_store import ObjectLibrary, open_object_library
from floradl.library.path_plan import PathPlan
from floradl.models import OutputKind, QueuedRun, RemoteOutput
from floradl.urls import BucketUrl

MIB = 1 << 20
SMALL = 100_000  # bytes
THREADS = 16
ROUNDS = 3


def main(arguments: list[str]) -> None:
    """Measure, and print a table."""
    quick = "--quick" in arguments
    place, endpoint = ([each for each in arguments if each != "--quick"] + [""])[:2]
    url = BucketUrl.parse(f"{place}/{os.urandom(4).hex()}")
    access = StoreAccess(endpoint or None, environ=os.environ)
    folders = {kind: kind.value for kind in OutputKind}
    paths = PathPlan.parse("{kind}/{run_id}-{output_id}{ext}", folders, 255)
    library = open_object_library(url, paths, access)
    library.create()
    files, size = (200, 64) if quick else (1_500, 1_024)
    ours, theirs = [], []
    for number in range(ROUNDS):
        ours.append(files / took(partial(save_small, library, f"a{number}", files)))
        theirs.append(files / took(partial(put_small, library, f"b{number}", files)))
    mine, peer = statistics.median(ours), statistics.median(theirs)
    print(f"files of 100 kB: {mine:.0f}/s; the client library alone {peer:.0f}/s: {mine / peer:.2f} of it")
    for writers in (1, 8):
        with peak_of_memory() as grown:
            before = cpu()
            seconds = took(partial(save_large, library, f"c{writers}", writers, size // writers))
            spent = (cpu() - before) / (size / 1024)
        print(
            f"{writers} at once, {size} MiB: {size / seconds:.0f} MiB/s, {spent:.2f} s of processor a GiB, "
            f"{grown[0]:.0f} MiB of memory"
        )
    keys = sum(1 for _ in library.listing())
    print(f"a listing of {keys} keys: {took(lambda: sum(1 for _ in library.listing())):.2f} s")
    for found in library.listing():
        library.remove(found.path)


def save_small(library: ObjectLibrary, name: str, files: int) -> None:
    """Save small outputs as the daemon does."""
    writer = BatchWriter(library.together)
    left = threading.Semaphore(0)

    def save(number: int) -> None:
        data = os.urandom(SMALL)
        run = QueuedRun(run_id=f"{name}-{number}", queued_at=1.0)
        where = library.destination(run, RemoteOutput("o", "imageUrl", ""), 1, None)
        with where.held(), where.open("") as sink:
            sink.truncate(0)
            sink.write(data)
            where.publish(sink, ".png", hashlib.sha256(data).hexdigest(), None)

    def done(result: object) -> None:
        left.release()
        if isinstance(result, Exception):
            print(result)

    for number in range(files):
        writer.put(partial(save, number), done)
    for _ in range(files):
        left.acquire()
    writer.close()


def put_small(library: ObjectLibrary, name: str, files: int) -> None:
    """Put small objects by the client library alone."""
    operator = library.client._whole  # noqa: SLF001 - the peer

    def put(number: int) -> None:
        operator.write(f"{name}/{number}", os.urandom(SMALL), if_not_exists=True)

    with ThreadPoolExecutor(2 * THREADS) as threads:
        list(threads.map(put, range(files)))


def save_large(library: ObjectLibrary, name: str, writers: int, size: int) -> None:
    """Save large outputs, of `size` MiB each, as downloads do."""
    block = os.urandom(MIB)

    def save(number: int) -> None:
        run = QueuedRun(run_id=f"{name}-{number}", queued_at=1.0)
        where = library.destination(run, RemoteOutput("o", "videoUrl", ""), 1, None)
        digests = ChecksumSet({})
        with where.held(), where.open("v") as sink:
            assert isinstance(sink, StreamingSink)
            sink.expect(size * MIB, lambda: ".mp4")
            for _ in range(size):
                sink.write(memoryview(block))
                digests.update(block)
            where.publish(sink, ".mp4", digests.sha256, None)

    with ThreadPoolExecutor(writers) as threads:
        list(threads.map(save, range(writers)))


def took(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cpu() -> float:
    """Return the seconds of processor that this process has had."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def peak_of_memory() -> Iterator[list[float]]:
    """Give how many MiB this process grows by meanwhile, at most."""
    ended, before = threading.Event(), resident()
    grown = [0.0]

    def look() -> None:
        while not ended.wait(0.02):
            grown[0] = max(grown[0], resident() - before)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield grown
    ended.set()
    thread.join()


def resident() -> float:
    """Return this process's memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


if __name__ == "__main__":
    main(sys.argv[1:])
