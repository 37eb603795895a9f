"""What only the store itself can say: the rule for abandoned uploads, the bucket's region, its clock.

The client library cannot ask for any of it: one small request is signed here (AWS Signature Version 4).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import httpx
from msgspec import Struct

from floradl.errors import FloradlError
from floradl.library.object_access import StoreAccess, options_of
from floradl.net.client import open_client
from floradl.net.headers import date
from floradl.net.http11 import read_bounded
from floradl.net.pool import PoolLimits
from floradl.net.url_policy import UrlPolicy
from floradl.urls import BucketUrl

_MOST: Final = 1 << 20  # bytes of an answer
_SKEW: Final = 60.0  # seconds that clocks may differ; S3 refuses at 900
_TIMEOUT: Final = 10.0
_RULE = re.compile(r"<Rule>.*?</Rule>", re.DOTALL)
_NOT_ASKED = (
    "whether abandoned uploads are removed cannot be asked here: see that the bucket has a lifecycle rule "
    "with AbortIncompleteMultipartUpload (docs/buckets.md)"
)


class StoreAnswer(Struct, frozen=True):
    """What the store said of its bucket's rules. `clock` is its time, in unix seconds."""

    status: int
    text: str
    region: str
    clock: float | None


def store_advice(url: BucketUrl, access: StoreAccess, wall: float) -> Iterator[str]:
    """Yield what is to be mended at the store, a sentence each; `wall` is this machine's unix seconds.

    Nothing is raised: what cannot be asked is said.
    """
    if url.scheme == "az":
        return  # Azure removes blocks that belong to no blob after a week
    options = options_of(url, access)
    if url.scheme == "gs" or not (options.get("access_key_id") and options.get("secret_access_key")):
        yield _NOT_ASKED
        return
    try:
        found = _ask(url, options, wall)
    except (FloradlError, httpx.RequestError):
        yield _NOT_ASKED
        return
    if found.clock is not None and abs(found.clock - wall) > _SKEW:
        skew = abs(found.clock - wall)
        yield f"this machine's clock differs from the store's by {skew:.0f} s: set it (NTP)"
    if found.region and found.region != options["region"]:
        yield f"the bucket is in the region {found.region}, and output.region is {options['region']}"
    elif found.status == 404 and "NoSuchBucket" in found.text:
        yield f"there is no bucket {url.bucket}"
    elif (found.status == 200 or "NoSuchLifecycleConfiguration" in found.text) and not _aborts(found.text):
        yield (
            "the bucket has no lifecycle rule that removes abandoned uploads "
            "(AbortIncompleteMultipartUpload): what a killed daemon had sent is paid for until somebody "
            "removes it; docs/buckets.md has the command"
        )
    elif found.status != 200:
        yield _NOT_ASKED


def _aborts(text: str) -> bool:
    return any(
        "<AbortIncompleteMultipartUpload>" in rule and "<Status>Enabled</Status>" in rule
        for rule in _RULE.findall(text)
    )


def _ask(url: BucketUrl, options: dict[str, str], wall: float) -> StoreAnswer:
    """Ask for the bucket's rules. Raises `FloradlError`, `httpx.RequestError`."""
    base = httpx.URL(options.get("endpoint") or f"https://s3.{options['region']}.amazonaws.com")
    target = base.copy_with(path=f"{base.path.rstrip('/')}/{url.bucket}", query=b"lifecycle=")
    limits = PoolLimits(connect=_TIMEOUT, read=_TIMEOUT)
    policy = UrlPolicy([target.host])
    with closing(open_client(policy, user_agent="floradl", limits=limits)) as client:
        request = client.build_request("GET", target, headers=signed(target, options, wall))
        answer = client.send(request, stream=True)
        with closing(answer):
            text = read_bounded(answer, _MOST).decode("utf-8", "replace")
    return StoreAnswer(
        answer.status_code, text, answer.headers.get("x-amz-bucket-region", ""), date(answer.headers)
    )


def signed(target: httpx.URL, options: dict[str, str], wall: float) -> dict[str, str]:
    """Return the fields that sign a GET of `target`, whose query is one name without a value."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall))
    day, nothing = moment[:8], hashlib.sha256(b"").hexdigest()
    fields = {
        "host": target.netloc.decode(),
        "x-amz-content-sha256": nothing,
        "x-amz-date": moment,
    }
    if token := options.get("session_token"):
        fields["x-amz-security-token"] = token
    names = ";".join(sorted(fields))
    lines = [f"{name}:{fields[name]}" for name in sorted(fields)]
    path, _, query = target.raw_path.decode().partition("?")
    canonical = "\n".join(("GET", path, query, *lines, "", names, nothing))
    scope = f"{day}/{options['region']}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{options['secret_access_key']}".encode()
    for part in (day, options["region"], "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"{options['access_key_id']}/{scope}"
    fields["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    )
    return fields
