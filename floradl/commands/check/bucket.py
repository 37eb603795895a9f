"""What `floradl check` tries out in a bucket: reading, writing, and that nothing is replaced or left over."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import suppress

from floradl.commands.check import CheckResult, fail, ok, warn
from floradl.errors import FloradlError
from floradl.library.object_access import StoreAccess
from floradl.library.object_check import store_advice
from floradl.library.object_client import ObjectClient, TakenError
from floradl.library.object_marker import HONOURING, MARKER, REPLACES
from floradl.library.object_store import ObjectLibrary


def check_bucket(library: ObjectLibrary, access: StoreAccess) -> Iterator[CheckResult]:
    """Try out a bucket; what is written for that is removed. Its library may be to be made yet."""
    place = library.location()
    try:
        is_marked = library.client.read(MARKER) is not None
        replaces = _replaces(library.client)
    except FloradlError as error:
        yield fail("library", str(error))
        return
    if replaces:
        yield fail("library", f"{place}: {REPLACES}", HONOURING)
    elif weak := "; ".join(library.weaknesses()):
        yield warn("library", f"{place}: {weak}")
    else:
        later = "" if is_marked else "; the library will be made at the first start"
        yield ok("library", f"{place} can be read and written, and replaces nothing{later}")
    for advice in store_advice(library.client.url, access, time.time()):
        yield warn("bucket", advice)


def _replaces(client: ObjectClient) -> bool:
    """Return whether the store replaces an object that is to be created. Raises as the library."""
    key = f".floradl-check-{secrets.token_hex(8)}"
    client.create(key, b"floradl check tries out whether it can write here\n")
    try:
        client.create(key, b"and whether that would be replaced\n")
    except TakenError:
        return False
    finally:
        with suppress(FloradlError):
            client.delete(key)
    return True
