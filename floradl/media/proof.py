"""By which of the server's checksums a whole file is known to be right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from floradl.errors import ErrorCode, PassingError
from floradl.media.checksums import Digests

_WRONG: Final = "-disagreed"


class Proof(msgspec.Struct, frozen=True):
    """What `checked` says of checksums, and whether one holds. `wrong` names one that differs."""

    names: tuple[str, ...] = ()
    holds: bool = False
    wrong: str | None = None


def proof_of(digests: Digests, headers: Mapping[str, str], undone: tuple[str, ...]) -> Proof:
    """Return what proves the bytes of an answer from which the codings `undone` were taken.

    Where the checksum differs, so does that of `wrong`.
    """
    if digests.algorithm is None:
        if not {"gzip", "x-gzip"} & {*undone}:
            return Proof()
        # zlib held each member against its own checksum and length (RFC 1952, 2.3.1); how many there should
        # be, an answer tells only by its length or its last chunk.
        return Proof(("gzip-crc32",), holds="content-length" in headers or "transfer-encoding" in headers)
    if digests.agree():
        return Proof((digests.algorithm,), holds=True)
    return Proof(("twice", f"{digests.algorithm}{_WRONG}"), wrong=digests.algorithm)


def names_wrong(checked: tuple[str, ...]) -> str | None:
    """Return the checksum of the server's that `checked` says to be wrong, None where it names none."""
    return next((name.removesuffix(_WRONG) for name in checked if name.endswith(_WRONG)), None)


def disagreement(algorithm: str) -> PassingError:
    """Return what is said of a file that does not match the server's checksum, for the first time."""
    return PassingError(f"the bytes do not match the server's {algorithm} checksum", ErrorCode.DAMAGED)
