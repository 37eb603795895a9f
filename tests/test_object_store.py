"""A library in a bucket where the store, the way to it, or another machine gets in the way."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from clients import client
from object_stores import (
    BUCKET,
    IMPATIENT,
    READER,
    READER_SECRET,
    Line,
    Request,
    Store,
    answer,
)
from wire import MediaHost, Reply, Request as WireRequest, answer as media_answer, served, unframed

from floradl.download.downloader import Downloader, DownloadLimits
from floradl.errors import ConfigError, ErrorCode, PauseReason, ServicePausedError, TransientError
from floradl.library.base import Destination, NotKeptError
from floradl.library.object_access import StoreAccess, options_of
from floradl.library.object_arrivals import AT_ONCE, ObjectSink
from floradl.library.object_client import ObjectClient, TakenError, Upload
from floradl.library.object_store import ObjectLibrary
from floradl.library.sidecar import Sidecar
from floradl.models import OutputKind, QueuedRun, Reference, RemoteOutput, Result, SavedOutput
from floradl.net.url_policy import UrlPolicy
from floradl.simulator import formats
from floradl.urls import BucketUrl

MIB = 1 << 20
LARGE = AT_ONCE + 4 * MIB
PATH = "image/tech/run_a-o.png"


@dataclass
class Bucket:
    """A library behind a line, and what another machine sees."""

    store: Store
    line: Line
    prefix: str = field(default_factory=lambda: os.urandom(4).hex())

    def __post_init__(self) -> None:
        self.other = self.store.client(self.prefix)
        self.library = self.opened()
        self.library.create()
        self.library.check()
        self.line.seen.clear()

    def opened(self, **environ: str) -> ObjectLibrary:
        return self.store.behind(self.line.port).by(**environ).library(self.prefix)

    def read(self, path: str) -> bytes | None:
        return self.other.read(path)


@pytest.fixture
def bucket(stores: Callable[[str], Store]) -> Iterator[Bucket]:
    store = stores("s3")
    with Line(store.port) as line:
        yield Bucket(store, line)


def place(library: ObjectLibrary, run_id: str = "run_a", nth: int = 1) -> Destination:
    run = QueuedRun(run_id=run_id, technique="tech", queued_at=1.0)
    return library.destination(run, RemoteOutput("o", "imageUrl", "", nth), 1, None)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def opened(where: Destination, data: bytes, validator: str = "v") -> ObjectSink:
    sink = where.open(validator)
    assert isinstance(sink, ObjectSink)
    sink.expect(len(data), lambda: ".png")
    return sink


def send(where: Destination, data: bytes) -> str:
    with opened(where, data) as sink:
        for offset in range(0, len(data), MIB):
            sink.write(memoryview(data)[offset : offset + MIB])
        return where.publish(sink, ".png", sha256(data), None)


def etag_of(bucket: Bucket, path: str) -> str:
    found = bucket.other.stat(path)
    assert found is not None
    return found.etag


def sidecar(label: str | None = None, outputs: tuple[SavedOutput, ...] = ()) -> Sidecar:
    return Sidecar(
        reference="tech/run_a",
        technique="tech",
        run_id="run_a",
        label=label,
        result=Result.COMPLETE,
        outputs=outputs,
    )


DATA = os.urandom(LARGE)


@pytest.mark.parametrize("data", [b"small", DATA], ids=["small", "large"])
def test_a_create_whose_answer_is_lost_is_adopted(bucket: Bucket, data: bytes) -> None:
    lost = iter([True])

    def lose(request: Request) -> object:
        ends = "uploadId=" in request.target if len(data) > AT_ONCE else "run_a" in request.target
        whole = request.method == ("POST" if len(data) > AT_ONCE else "PUT")
        return Line.LOST if whole and ends and next(lost, False) else None

    bucket.line.act = lose
    where = place(bucket.library)
    assert send(where, data) == PATH
    assert bucket.read(PATH) == data
    assert [found.key for found in bucket.other.list("image/")] == [PATH]
    assert where.stored_etag == etag_of(bucket, PATH)


def test_a_small_output_is_one_request_and_its_etag_is_known_without_another(bucket: Bucket) -> None:
    where = place(bucket.library)
    send(where, b"small")
    assert [request.method for request in bucket.line.seen] == ["PUT"]
    found = bucket.other.stat(PATH)
    assert found is not None
    assert where.stored_etag == found.etag == f'"{hashlib.md5(b"small").hexdigest()}"'
    head = bucket.line.seen[0].head.lower()
    assert "if-none-match: *" in head
    assert "content-md5: " in head
    assert f"x-amz-meta-sha256: {sha256(b'small')}" in head


def test_a_large_output_is_sent_while_it_arrives_and_its_parts_carry_a_checksum(bucket: Bucket) -> None:
    where = place(bucket.library)
    with opened(where, DATA) as sink:
        sink.write(DATA)
        assert bucket.read(PATH) is None
        assert where.publish(sink, ".png", sha256(DATA), None) == PATH
    parts = [request for request in bucket.line.seen if "partNumber=" in request.target]
    assert len(parts) == 3
    assert all("x-amz-checksum-crc32c: " in request.head.lower() for request in parts)
    assert bucket.read(PATH) == DATA
    assert where.stored_etag == etag_of(bucket, PATH)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_nothing_is_published_where_an_error_or_a_cancel_leaves_the_sink(
    bucket: Bucket, error: type[BaseException]
) -> None:
    with suppress(error), opened(place(bucket.library), DATA) as sink:
        sink.write(DATA)
        raise error
    library = bucket.library
    bucket.library = bucket.opened()
    del library, sink
    assert bucket.other.stat(PATH) is None
    assert send(place(bucket.library), DATA) == PATH


def test_a_broken_download_is_continued_inside_the_open_upload(bucket: Bucket) -> None:
    with opened(place(bucket.library), DATA) as sink:
        sink.write(memoryview(DATA)[: 10 * MIB])
    where = place(bucket.library)
    assert where.resume_point() == ("v", 10 * MIB)
    with opened(where, DATA) as sink:
        assert sink.read(100, 10 * MIB - 100) == DATA[10 * MIB - 100 : 10 * MIB]
        assert sink.read(100, 0) == DATA[:100]
        with pytest.raises(NotKeptError):
            sink.read(100, 5 * MIB)
        sink.write(memoryview(DATA)[10 * MIB :])
        assert where.publish(sink, ".png", sha256(DATA), None) == PATH
    assert bucket.read(PATH) == DATA
    assert sum(request.target.endswith("?uploads") for request in bucket.line.seen) == 1


def large_png() -> bytes:
    return formats.png("large", "large", 20 * MIB).read()


def fetched(
    bucket: Bucket, replies: Callable[[int, WireRequest], bytes]
) -> tuple[list[WireRequest], str, bytes]:
    """Download a picture, again after each broken connection; return the requests, its path and bytes."""
    number = 0
    policy = UrlPolicy(["127.0.0.1"])

    def reply(request: WireRequest) -> Reply:
        nonlocal number
        number += 1
        return Reply(replies(number, request))

    with MediaHost(reply) as host, closing(client(policy)) as media:
        limits = DownloadLimits(None, 0, 60.0)
        downloader = Downloader(media, policy, limits)
        while True:
            where = place(bucket.library)
            try:
                received = downloader.fetch(host.url(), where, lambda *_: None)
            except TransientError:
                continue
            with received:
                path = where.publish(received.sink, received.finding.ext, received.finding.sha256, None)
            data = bucket.read(path)
            assert data is not None
            assert sha256(data) == received.finding.sha256
            return host.requests, path, data


def test_a_broken_connection_to_the_media_host_is_continued_by_range_into_the_open_upload(
    bucket: Bucket,
) -> None:
    png = large_png()
    half = 12 * MIB

    def reply(number: int, request: WireRequest) -> bytes:
        if number == 1:
            whole = media_answer(png, 'ETag: "one"')
            return whole[: len(whole) - len(png) + half]
        return served(png, request, 'ETag: "one"')

    requests, path, data = fetched(bucket, reply)
    assert (path, data) == (PATH, png)
    assert [request.start for request in requests] == [None, half - 65_536]
    assert sum(request.target.endswith("?uploads") for request in bucket.line.seen) == 1


@pytest.mark.parametrize("etag", ['"one"', '"two"'], ids=["refused", "other version"])
def test_a_whole_body_in_answer_to_a_range_begins_another_upload(bucket: Bucket, etag: str) -> None:
    png = large_png()

    def reply(number: int, _: WireRequest) -> bytes:
        whole = media_answer(png, f"ETag: {etag if number > 1 else chr(34) + 'one' + chr(34)}")
        return whole[: len(whole) - len(png) + 12 * MIB] if number == 1 else whole

    requests, path, data = fetched(bucket, reply)
    assert (path, data) == (PATH, png)
    assert len(requests) == 2
    assert sum(request.target.endswith("?uploads") for request in bucket.line.seen) == 2
    assert [found.key for found in bucket.other.list("image/")] == [PATH]


def test_a_range_of_other_bytes_begins_another_upload(bucket: Bucket) -> None:
    png, other = large_png(), formats.png("other", "large", 20 * MIB).read()

    def reply(number: int, request: WireRequest) -> bytes:
        if number == 1:
            whole = media_answer(png, 'ETag: "same"')
            return whole[: len(whole) - len(png) + 12 * MIB]
        return (
            served(other, request, 'ETag: "same"') if request.start else media_answer(other, 'ETag: "same"')
        )

    _, path, data = fetched(bucket, reply)
    assert (path, data) == (PATH, other)


def test_a_large_output_without_a_length_is_whole_only_where_its_format_says_so(bucket: Bucket) -> None:
    png = large_png()

    def reply(number: int, _: WireRequest) -> bytes:
        return unframed(png[: 15 * MIB] if number == 1 else png)

    requests, path, data = fetched(bucket, reply)
    assert (len(requests), path, data) == (2, PATH, png)
    assert sum(request.target.endswith("?uploads") for request in bucket.line.seen) == 2


def test_another_version_of_the_media_begins_another_upload(bucket: Bucket) -> None:
    other = DATA[::-1]
    with opened(place(bucket.library), DATA) as sink:
        sink.write(DATA)
    with opened(place(bucket.library), other, "w") as sink:
        assert sink.size == 0
        sink.write(other)
        sink.truncate(0)
        assert (sink.size, sink.is_sent) == (0, False)
        sink.write(other)
        with pytest.raises(TransientError, match="anew"):
            sink.truncate(LARGE - 1)
    assert bucket.other.stat(PATH) is None
    assert send(place(bucket.library), other) == PATH
    assert bucket.read(PATH) == other


def test_the_same_large_output_is_adopted_and_another_gets_the_next_name(bucket: Bucket) -> None:
    bucket.other.overwrite(PATH, b"theirs")
    second = "image/tech/run_a-o-2.png"
    assert send(place(bucket.library), DATA) == second
    assert send(place(bucket.opened()), DATA) == second
    assert bucket.read(PATH) == b"theirs"
    assert len(list(bucket.other.list("image/"))) == 2


def test_two_machines_that_save_one_output_at_once_leave_one_file(bucket: Bucket) -> None:
    paths: list[str] = []
    ready = threading.Barrier(4)

    def save(library: ObjectLibrary) -> None:
        where = place(library)
        with opened(where, DATA) as sink:
            sink.write(DATA)
            ready.wait()
            paths.append(where.publish(sink, ".png", sha256(DATA), None))

    threads = [threading.Thread(target=save, args=(bucket.opened(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [PATH] * 4
    assert bucket.read(PATH) == DATA


def test_two_machines_that_save_different_bytes_under_one_name_both_keep_them(bucket: Bucket) -> None:
    other = DATA[::-1]
    first, second = place(bucket.library), place(bucket.opened())
    with opened(first, DATA) as one, opened(second, other) as two:
        one.write(DATA)
        two.write(other)
        assert first.publish(one, ".png", sha256(DATA), None) == PATH
        with pytest.raises(TransientError, match="another program"):
            second.publish(two, ".png", sha256(other), None)
    path = send(place(bucket.opened()), other)
    assert (bucket.read(PATH), bucket.read(path)) == (DATA, other)


def test_a_part_whose_connection_breaks_is_sent_again(bucket: Bucket) -> None:
    broken = iter([True, True])
    bucket.line.act = lambda request: (
        Line.CUT if "partNumber=2" in request.target and next(broken, False) else None
    )
    assert send(place(bucket.library), DATA) == PATH
    assert bucket.read(PATH) == DATA


def test_an_upload_that_cannot_go_on_is_given_up_and_sent_anew(bucket: Bucket) -> None:
    bucket.line.act = lambda request: Line.CUT if "partNumber=2" in request.target else None
    where = place(bucket.library)
    with pytest.raises(ServicePausedError) as caught:
        send(where, DATA)
    assert caught.value.reason is PauseReason.LIBRARY_MISSING
    assert where.resume_point() in {None, ("v", 0)}
    bucket.line.act = lambda _: None
    assert bucket.other.stat(PATH) is None
    assert send(place(bucket.library), DATA) == PATH
    assert bucket.read(PATH) == DATA


REFUSALS = [
    (503, "SlowDown", TransientError, None, "fewer requests"),
    (500, "InternalError", ServicePausedError, PauseReason.DISK_FULL, "full"),
    (507, "QuotaExceeded", ServicePausedError, PauseReason.DISK_FULL, "Make room"),
    (403, "AccessDenied", ServicePausedError, PauseReason.LIBRARY_READ_ONLY, "policy"),
    (400, "ExpiredToken", ServicePausedError, PauseReason.LIBRARY_MISSING, "Renew"),
    (403, "InvalidAccessKeyId", ServicePausedError, PauseReason.LIBRARY_MISSING, "key"),
    (403, "RequestTimeTooSkewed", ServicePausedError, PauseReason.LIBRARY_MISSING, "clock"),
    (404, "NoSuchBucket", ServicePausedError, PauseReason.LIBRARY_MISSING, "Create it"),
    (301, "PermanentRedirect", ServicePausedError, PauseReason.LIBRARY_MISSING, "output.region"),
]


@pytest.mark.parametrize(
    ("status", "code", "kind", "reason", "remedy"), REFUSALS, ids=[r[1] for r in REFUSALS]
)
def test_a_refusal_in_mid_upload_says_what_to_do_and_publishes_nothing(
    bucket: Bucket, status: int, code: str, kind: type[Exception], reason: PauseReason | None, remedy: str
) -> None:
    refused = answer(status, code)
    bucket.line.act = lambda request: refused if "partNumber=2" in request.target else None
    with pytest.raises(kind, match=remedy) as caught:
        send(place(bucket.library), DATA)
    assert getattr(caught.value, "reason", None) is reason
    said = "".join(traceback.format_exception(caught.value))
    assert "uploadId" not in said
    assert "secret-of" not in said
    bucket.line.act = lambda _: None
    assert bucket.other.stat(PATH) is None
    assert send(place(bucket.library), DATA) == PATH


def test_a_store_that_says_when_to_come_back_is_heard(bucket: Bucket) -> None:
    bucket.line.act = lambda _: answer(503, "SlowDown", Retry_After="17")
    with pytest.raises(TransientError) as caught:
        send(place(bucket.library), b"small")
    assert (caught.value.retry_after, caught.value.code) == (17.0, ErrorCode.STORAGE)


def test_credentials_that_may_only_read_are_told_at_the_first_write(bucket: Bucket) -> None:
    library = bucket.opened(AWS_ACCESS_KEY_ID=READER, AWS_SECRET_ACCESS_KEY=READER_SECRET)
    library.check()
    for write in (partial(send, place(library), b"x"), library.check_room):
        with pytest.raises(ServicePausedError) as caught:
            write()
        assert caught.value.reason is PauseReason.LIBRARY_READ_ONLY
        assert READER_SECRET not in str(caught.value)


def test_a_store_that_is_not_reached_is_a_pause(bucket: Bucket, closed_port: int) -> None:
    library = bucket.store.behind(closed_port).library(bucket.prefix)
    with pytest.raises(ServicePausedError, match="does not answer") as caught:
        library.check()
    assert caught.value.reason is PauseReason.LIBRARY_MISSING


def test_a_bucket_that_is_gone_is_not_an_empty_library(stores: Callable[[str], Store]) -> None:
    store = stores("s3")
    client = ObjectClient(store.url("x", "no-such-bucket"), store.access, IMPATIENT)
    with pytest.raises(ServicePausedError, match="no such bucket"):
        list(client.list())
    with pytest.raises(ServicePausedError):
        store.library(os.urandom(4).hex()).check()


def test_an_object_that_changes_while_it_is_read_is_never_spliced(bucket: Bucket) -> None:
    bucket.other.overwrite(PATH, b"a" * (2 * MIB))
    file = bucket.library.open_file(PATH)
    assert file is not None
    with file:
        assert file.read(10) == b"a" * 10
        bucket.other.overwrite(PATH, b"b" * (2 * MIB))
        with pytest.raises(TransientError, match="changed"):
            file.read(MIB)


def test_reading_goes_on_where_a_connection_breaks(bucket: Bucket) -> None:
    bucket.other.overwrite(PATH, DATA)
    file = bucket.library.open_file(PATH)
    broken = iter([True, False, True])
    bucket.line.act = lambda request: Line.CUT if request.method == "GET" and next(broken, False) else None
    assert file is not None
    with file:
        assert file.read() == DATA


def test_a_sidecar_whose_answer_is_lost_stands_once(bucket: Bucket) -> None:
    lost = iter([True])
    bucket.line.act = lambda request: Line.LOST if request.method == "PUT" and next(lost, False) else None
    assert bucket.library.write_sidecar(sidecar("one"), None) == "runs/tech/run_a.json"
    assert bucket.opened().find_sidecar(Reference("run_a", "tech")) == sidecar("one")


def test_a_sidecar_that_another_machine_writes_meanwhile_is_not_overwritten(bucket: Bucket) -> None:
    path = bucket.library.write_sidecar(sidecar("one"), None)
    meanwhile = iter([True])
    other = bucket.store.library(bucket.prefix)

    def write_first(request: Request) -> None:
        if request.method == "PUT" and next(meanwhile, False):
            other.write_sidecar(sidecar("theirs"), None, replacing=sidecar("one"))

    bucket.line.act = write_first
    with pytest.raises(TransientError, match="another sidecar"):
        bucket.library.write_sidecar(sidecar("ours"), None, replacing=sidecar("one"))
    assert bucket.library.locate_sidecar(Reference("run_a", "tech")) == (path, sidecar("theirs"))


def test_what_is_no_sidecar_is_kept_beside_the_one_that_takes_its_name(bucket: Bucket) -> None:
    bucket.other.overwrite("runs/tech/run_a.json", b"{")
    bucket.library.write_sidecar(sidecar(), None)
    assert bucket.read("runs/tech/run_a.json.unreadable") == b"{"
    assert bucket.library.find_sidecar(Reference("run_a", "tech")) == sidecar()


def test_one_listing_shows_a_thousand_files_with_a_request(bucket: Bucket) -> None:
    works = [partial(bucket.other.overwrite, f"image/{number:04}.png", b"x") for number in range(1_100)]
    bucket.store.library(bucket.prefix).together(works)
    assert sum(1 for _ in bucket.library.listing("image")) == 1_100
    assert bucket.line.count("GET") == 2


def test_works_done_together_are_done_at_once(bucket: Bucket) -> None:
    ready = threading.Barrier(8)
    assert bucket.library.together([lambda: ready.wait(20.0)] * 8)


def test_large_arrivals_give_way_to_one_another(bucket: Bucket) -> None:
    waiting = [opened(place(bucket.library, f"run_{number}"), DATA) for number in range(8)]
    for sink in waiting:
        with sink:
            sink.write(memoryview(DATA)[: 9 * MIB])
    held = [place(bucket.library, f"run_{number}").resume_point() for number in range(8)]
    assert sum(point is not None for point in held) == 4
    assert held[-1] == ("v", 9 * MIB)


def test_what_is_published_in_a_batch_waits_for_no_download(bucket: Bucket) -> None:
    with ExitStack() as busy:
        for number in range(4):
            busy.enter_context(opened(place(bucket.library, f"run_{number}"), DATA)).write(DATA[:MIB])
        data = DATA[: 2 * MIB]
        assert bucket.library.together([lambda: send(place(bucket.library), data)]) == [PATH]
    assert bucket.read(PATH) == data


def test_moving_a_large_file_replaces_nothing_and_is_repeated_after_a_crash(bucket: Bucket) -> None:
    send(place(bucket.library), DATA)
    bucket.other.overwrite("new/b.png", b"theirs")
    assert not bucket.library.move(PATH, "new/b.png")
    bucket.other.overwrite("new/a.png", DATA)  # the copy that a crash left
    assert bucket.library.move(PATH, "new/a.png")
    assert bucket.read("new/a.png") == DATA
    assert bucket.other.stat(PATH) is None


def test_a_damaged_large_file_is_kept_beside_what_takes_its_place(bucket: Bucket) -> None:
    send(place(bucket.library), DATA)
    bucket.other.overwrite(PATH, b"damaged")
    library = bucket.opened()
    library.expect_damaged(PATH, sha256(DATA))
    assert send(place(library), DATA) == PATH
    assert library.kept_as(PATH) == f"{PATH}.damaged"
    assert (bucket.read(PATH), bucket.read(f"{PATH}.damaged")) == (DATA, b"damaged")


def test_the_instances_metadata_address_is_asked_only_where_the_settings_allow_it() -> None:
    url = BucketUrl.parse(f"s3://{BUCKET}/x")
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "eu-central-1"}
    for allowed, value in ((False, "true"), (True, "false")):
        options = options_of(url, StoreAccess(instance_credentials=allowed, environ=keys))
        assert options["disable_ec2_metadata"] == value
        assert options["region"] == "eu-central-1"


@pytest.mark.parametrize(
    ("url", "environ", "endpoint", "message"),
    [
        ("s3://bucket/x", {}, None, "output.region"),
        ("s3://bucket/x", {}, "store:9000", "output.endpoint"),
        ("gs://bucket/x", {}, None, "GOOGLE_APPLICATION_CREDENTIALS"),
        ("az://container/x", {}, None, "AZURE_STORAGE_ACCOUNT"),
        ("az://container/x", {"AZURE_STORAGE_ACCOUNT": "a"}, None, "AZURE_STORAGE_KEY"),
    ],
)
def test_a_setting_that_is_missing_is_named(
    url: str, environ: dict[str, str], endpoint: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ObjectClient(BucketUrl.parse(url), StoreAccess(endpoint, environ=environ))


def test_without_credentials_no_request_is_made(
    bucket: Bucket, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    access = StoreAccess(f"http://127.0.0.1:{bucket.line.port}")
    client = ObjectClient(bucket.store.url(bucket.prefix), access, IMPATIENT)
    with pytest.raises(ServicePausedError, match="no credentials were found"):
        client.stat("x")
    assert bucket.line.seen == []


def test_a_google_bucket_is_asked_to_create_and_never_to_replace() -> None:
    with Line(0) as line:
        line.act = lambda _: answer(412, "conditionNotMet")
        access = StoreAccess(f"http://127.0.0.1:{line.port}", environ={"CLOUDSDK_AUTH_ACCESS_TOKEN": "token"})
        client = ObjectClient(BucketUrl.parse("gs://bucket/prefix"), access, IMPATIENT)
        with pytest.raises(TakenError):
            client.create("a.png", b"x")
        assert "ifGenerationMatch=0" in line.seen[0].target
        assert "authorization: bearer token" in line.seen[0].head.lower()
        assert not client.replaces_matching


def send_all(upload: Upload) -> None:
    for _ in range(2 * LARGE // MIB):
        upload.write(bytes(MIB))
    upload.close()


def test_a_large_object_for_google_is_begun_so_that_it_may_not_replace() -> None:
    with Line(0) as line:
        line.act = lambda _: answer(412, "conditionNotMet")
        access = StoreAccess(f"http://127.0.0.1:{line.port}", environ={"CLOUDSDK_AUTH_ACCESS_TOKEN": "token"})
        client = ObjectClient(BucketUrl.parse("gs://bucket/prefix"), access, IMPATIENT)
        upload = client.upload("a.mp4", 2 * LARGE)
        with pytest.raises(TransientError, match="another program"):
            send_all(upload)
    assert "uploadType=resumable" in line.seen[0].target
    assert "ifGenerationMatch=0" in line.seen[0].target


_KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from object_stores import Store
from floradl.library.object_access import StoreAccess
import test_object_store as tests
access = StoreAccess(sys.argv[2], environ=os.environ)
library = Store("s3", access, 0).library(sys.argv[3])
with tests.opened(tests.place(library), tests.DATA) as sink:
    sink.write(tests.DATA)
    print("sent", flush=True)
    sys.stdin.read()
"""


def test_a_process_that_is_killed_in_mid_upload_leaves_nothing_and_another_begins_anew(
    bucket: Bucket,
) -> None:
    access = bucket.store.access
    command = [
        sys.executable,
        "-c",
        _KILLED,
        str(Path(__file__).parent),
        access.endpoint or "",
        bucket.prefix,
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **access.environ}
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"sent\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert bucket.other.stat(PATH) is None
    assert place(bucket.library).resume_point() is None
    assert send(place(bucket.library), DATA) == PATH


def test_kinds_have_their_content_type(bucket: Bucket) -> None:
    send(place(bucket.library), b"x")
    assert "content-type: image/png" in bucket.line.seen[0].head.lower()
    assert OutputKind.IMAGE in PATH
