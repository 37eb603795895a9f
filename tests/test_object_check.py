"""What `check` learns of a bucket from the store itself."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml
from object_stores import BUCKET, READER, READER_SECRET, Line, Store, answer

from floradl.library.object_access import StoreAccess, options_of
from floradl.library.object_check import signed, store_advice
from floradl.urls import BucketUrl

ROOT = Path(__file__).parent.parent
URL = BucketUrl.parse(f"s3://{BUCKET}/x")
KEYS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "top-secret", "AWS_SESSION_TOKEN": "token"}
RULE = (
    "<LifecycleConfiguration><Rule><Status>{}</Status><AbortIncompleteMultipartUpload>"
    "<DaysAfterInitiation>2</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>"
)


def advice(reply: bytes, wall: float | None = None) -> list[str]:
    with Line(0) as line:
        line.act = lambda _: reply
        access = StoreAccess(f"http://127.0.0.1:{line.port}", "eu-central-1", environ=KEYS)
        found = list(store_advice(URL, access, time.time() if wall is None else wall))
    assert line.seen[0].target == f"/{BUCKET}?lifecycle="
    assert "top-secret" not in f"{found}{line.seen}"
    return found


def rules(status: str) -> bytes:
    body = RULE.format(status).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)


def test_a_bucket_with_the_rule_for_abandoned_uploads_is_fine() -> None:
    assert advice(rules("Enabled")) == []


@pytest.mark.parametrize(
    "reply", [rules("Disabled"), answer(404, "NoSuchLifecycleConfiguration")], ids=["disabled", "none"]
)
def test_a_missing_rule_for_abandoned_uploads_is_told(reply: bytes) -> None:
    (said,) = advice(reply)
    assert "AbortIncompleteMultipartUpload" in said


def test_what_cannot_be_asked_is_said() -> None:
    (said,) = advice(answer(403, "AccessDenied"))
    assert "cannot be asked" in said
    assert "cannot be asked" in next(
        store_advice(URL, StoreAccess("http://127.0.0.1:9", environ={}), time.time())
    )


def test_a_bucket_of_another_region_is_told() -> None:
    (said,) = advice(answer(301, "PermanentRedirect", x_amz_bucket_region="us-west-2"))
    assert "us-west-2" in said
    assert "output.region is eu-central-1" in said


def test_a_clock_that_differs_from_the_stores_is_told() -> None:
    now = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(1.7e9))
    said = advice(answer(403, "RequestTimeTooSkewed", Date=now), wall=1.7e9 + 3600)
    assert "3600 s" in said[0]


def test_the_signature_is_one_that_a_store_accepts(stores: Callable[[str], Store]) -> None:
    store = stores("s3")

    def asked(**environ: str) -> int:
        options = options_of(URL, store.by(**environ).access)
        target = httpx.URL(f"{options['endpoint']}/{BUCKET}?lifecycle=")
        request = urllib.request.Request(str(target), headers=signed(target, options, time.time()))
        try:
            with urllib.request.urlopen(request) as answered:
                status: int = answered.status
                return status
        except urllib.error.HTTPError as error:
            return error.code

    assert asked() in {200, 404}  # there is no rule
    assert asked(AWS_SECRET_ACCESS_KEY="wrong") == 403
    assert READER_SECRET not in str(list(store_advice(URL, store.access, time.time())))
    assert asked(AWS_ACCESS_KEY_ID=READER, AWS_SECRET_ACCESS_KEY=READER_SECRET) in {200, 403, 404}


def test_the_bucket_that_the_compose_file_makes_is_one_that_check_finds_nothing_amiss_with(
    stores: Callable[[str], Store],
) -> None:
    if (curl := shutil.which("curl")) is None:
        pytest.skip("curl is not installed")
    store = stores("s3")
    url = BucketUrl.parse("s3://made-by-compose/library")
    service = yaml.safe_load((ROOT / "deploy/compose.scale.yaml").read_text())["services"]["bucket"]
    (script,) = service["command"]
    script = script.replace("$$", "$").replace("http://store:8333", store.access.endpoint)
    environ = {**store.access.environ, "LIBRARY": str(url), "PATH": f"{Path(curl).parent}:/usr/bin:/bin"}
    assert list(store_advice(url, store.access, time.time())) == ["there is no bucket made-by-compose"]
    for _ in range(2):  # at the next start it is there
        done = subprocess.run(
            [*service["entrypoint"], script], env=environ, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert list(store_advice(url, store.access, time.time())) == []
    environ["AWS_SECRET_ACCESS_KEY"] = "wrong"
    done = subprocess.run(
        [*service["entrypoint"], script], env=environ, capture_output=True, text=True, check=False
    )
    assert "403" in done.stderr
    assert done.returncode != 0
