"""What lies in the media host's store: as scripted, or as a fault wants it."""

from __future__ import annotations

import hashlib
import zlib
from email.utils import formatdate
from functools import lru_cache

from msgspec.structs import replace

from floradl.simulator.bodies import BLOCK, Body, Digests, Part, digest, literal
from floradl.simulator.faults import Do
from floradl.simulator.ranges import StoredObject
from floradl.simulator.runs import ScriptedRun, media_of
from floradl.simulator.signing import MediaStyle

_GZIP = 31  # zlib's window bits for a gzip wrapper


def stored_object(
    run: ScriptedRun, index: int, body: Body, digests: Digests, style: MediaStyle
) -> StoredObject:
    """Describe the bytes of one output as the object store of that style does."""
    output = run.outputs[index]
    headers = {"Content-Type": output.content_type or media_of(output).content_type}
    if style is MediaStyle.GCS:
        headers |= {
            "x-goog-stored-content-encoding": "identity",
            "x-goog-generation": str(round(run.ended * 1e6)),
        }
    modified = formatdate(int(run.ended), usegmt=True)
    return _described(StoredObject(body, "", modified, headers, output.headers), digests, style)


def disturbed(stored: StoredObject, do: Do, style: MediaStyle, variant: int) -> StoredObject:
    """Give the object as `do` wants it. `variant` makes one change of content differ from the next.

    Hashes what it makes: call it in a thread.
    """
    if do.gzip or do.gzip_bomb is not None:
        zipped = (
            _bomb(do.gzip_bomb) if do.gzip_bomb is not None else zlib.compress(stored.body.read(), 6, _GZIP)
        )
        headers = {**stored.headers, "Content-Encoding": "gzip"}
        if style is MediaStyle.GCS:
            headers["x-goog-stored-content-encoding"] = "gzip"
        stored = replace(stored, body=Body((literal(zipped),)), headers=headers)
        stored = _described(stored, digest(stored.body), style)
    if do.change_content:
        stored = replace(stored, body=_changed(stored.body, variant))
        if not do.keep_etag:
            stored = _described(stored, digest(stored.body), style)
    if do.corrupt:
        stored = replace(stored, body=_flipped(stored.body))
    if do.weak_etag:
        stored = replace(stored, etag=f"W/{stored.etag}")
    return stored


def _described(stored: StoredObject, digests: Digests, style: MediaStyle) -> StoredObject:
    # A composite object's ETag is not an MD5, at GCS as at S3: it has a part count there.
    etag = digests.md5_hex or f"{digests.crc32c.encode().hex():0<32}-2"
    headers = dict(stored.headers)
    if style is MediaStyle.GCS:
        hashes = [f"crc32c={digests.crc32c}"] + ([f"md5={digests.md5}"] if digests.md5 else [])
        headers |= {"x-goog-hash": ",".join(hashes), "x-goog-stored-content-length": str(stored.body.size)}
    return replace(stored, etag=f'"{etag}"', headers=headers)


def _changed(body: Body, variant: int) -> Body:
    """Give other bytes of the same size: each is turned by an amount that hangs on `variant`."""
    turn = 1 + hashlib.sha256(str(variant).encode()).digest()[0] % 255
    table = bytes((value + turn) % 256 for value in range(256))
    return Body(tuple(_mapped(part, table) for part in body.parts))


def _mapped(part: Part, table: bytes) -> Part:
    return Part(part.size, part.block_size, lambda number: part.make(number).translate(table))


def _flipped(body: Body) -> Body:
    """Turn one bit in the middle."""
    middle = body.size // 2
    turned = bytes(value ^ 1 for value in body.read(middle, middle + 1))
    return Body((_slice(body, 0, middle), literal(turned), _slice(body, middle + 1, body.size)))


def _slice(body: Body, start: int, stop: int) -> Part:
    """Give some of a body's bytes as a part of another one."""

    def block(number: int) -> bytes:
        at = start + number * BLOCK
        return body.read(at, min(at + BLOCK, stop))

    return Part(max(stop - start, 0), BLOCK, block)


@lru_cache(maxsize=4)
def _bomb(size: int) -> bytes:
    """Pack `size` zero bytes: about a thousandth of that."""
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    block = bytes(1 << 20)
    whole, rest = divmod(size, len(block))
    packed = [packer.compress(block) for _number in range(whole)]
    return b"".join([*packed, packer.compress(block[:rest]), packer.flush()])
