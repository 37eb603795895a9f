"""The media host's handlers, and what is in its store: as scripted, or as a fault wants it."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from email.utils import formatdate
from functools import lru_cache

from aiohttp import web
from msgspec.structs import replace

from floradl.simulator import runs, server as wire
from floradl.simulator.delivery import StoredAnswer, StoredBody, answer, small
from floradl.simulator.faults import Do
from floradl.simulator.formats import BLOCK, Body, BodyDigests, Part, digest, literal
from floradl.simulator.runs import MediaStyle, ScriptedRun, UrlVerdict, media_of
from floradl.simulator.state import Simulator

_GZIP = 31  # zlib's window bits for a gzip wrapper
_NO_FAULT = Do()


def stored_object(
    run: ScriptedRun, index: int, body: Body, digests: BodyDigests, style: MediaStyle
) -> StoredBody:
    """Describe the bytes of one output as the object store of that style does."""
    output = run.outputs[index]
    headers = {"Content-Type": output.content_type or media_of(output).content_type}
    if style is MediaStyle.GCS:
        headers |= {
            "x-goog-stored-content-encoding": "identity",
            "x-goog-generation": str(round(run.ended * 1e6)),
        }
    modified = formatdate(int(run.ended), usegmt=True)
    return _described(StoredBody(body, "", modified, headers, output.headers), digests, style)


def disturbed(stored: StoredBody, do: Do, style: MediaStyle, variant: int) -> StoredBody:
    """Return the object as `do` wants it, its content by `variant`. It hashes: call it in a thread."""
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


def _described(stored: StoredBody, digests: BodyDigests, style: MediaStyle) -> StoredBody:
    # A composite object's ETag is not an MD5, at GCS as at S3: it has a part count there.
    etag = digests.md5_hex or f"{digests.crc32c.encode().hex():0<32}-2"
    headers = dict(stored.headers)
    if style is MediaStyle.GCS:
        hashes = [f"crc32c={digests.crc32c}"] + ([f"md5={digests.md5}"] if digests.md5 else [])
        headers |= {"x-goog-hash": ",".join(hashes), "x-goog-stored-content-length": str(stored.body.size)}
    return replace(stored, etag=f'"{etag}"', headers=headers)


def _changed(body: Body, variant: int) -> Body:
    # Other bytes of the same size: each is turned by an amount that hangs on `variant`.
    turn = 1 + hashlib.sha256(str(variant).encode()).digest()[0] % 255
    table = bytes((value + turn) % 256 for value in range(256))
    return Body(tuple(_mapped(part, table) for part in body.parts))


def _mapped(part: Part, table: bytes) -> Part:
    return Part(part.size, part.block_size, lambda number: part.make(number).translate(table))


def _flipped(body: Body) -> Body:
    middle = body.size // 2
    turned = bytes(value ^ 1 for value in body.read(middle, middle + 1))
    return Body((_slice(body, 0, middle), literal(turned), _slice(body, middle + 1, body.size)))


def _slice(body: Body, start: int, stop: int) -> Part:
    def block(number: int) -> bytes:
        at = start + number * BLOCK
        return body.read(at, min(at + BLOCK, stop))

    return Part(max(stop - start, 0), BLOCK, block)


@lru_cache(maxsize=4)
def _bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    block = bytes(1 << 20)
    whole, rest = divmod(size, len(block))
    packed = [packer.compress(block) for _number in range(whole)]
    return b"".join([*packed, packer.compress(block[:rest]), packer.flush()])


class MediaHost:
    """The handlers. They read one `Simulator`."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def application(self) -> web.Application:
        """Build the application, with its objects below `/media`."""
        app = web.Application()
        app.router.add_get("/media/{run_id}/{number:[0-9]{1,6}}{extension:[.][a-z0-9]+}", self._handle)
        app.router.add_route("*", "/{elsewhere:.*}", self._handle)
        app.on_response_prepare.append(self._before_sending)
        return app

    async def _before_sending(self, request: web.Request, response: web.StreamResponse) -> None:
        wire.record(self._simulator, "media", request, response.status)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        exchange = wire.ServedRequest(self._simulator, "media", request)
        begun = await exchange.begin()
        if isinstance(begun, web.StreamResponse):
            return begun
        if begun is not None:
            return await exchange.finish(begun)
        do = exchange.do or _NO_FAULT
        verdict = self._verdict(request, do)
        run, index = self._output(request)
        if verdict is not UrlVerdict.GOOD or run is None:
            return await exchange.finish(self._refusal(request, verdict))
        rate = run.outputs[index].rate
        answer = await self._answer(request, run, index, do)
        return await exchange.finish(answer, rate and rate * self._simulator.speed)

    def _verdict(self, request: web.Request, do: Do) -> UrlVerdict:
        if "run_id" not in request.match_info:
            return UrlVerdict.GOOD  # nothing is here, whatever the signature
        if do.expire:
            return UrlVerdict.EXPIRED
        simulator = self._simulator
        path = request.rel_url.raw_path
        return simulator.signer.check(path, request.query, simulator.now(), revoked_to=simulator.revoked_to)

    def _output(self, request: web.Request) -> tuple[ScriptedRun | None, int]:
        run = self._simulator.run(request.match_info.get("run_id", ""))
        index = int(request.match_info.get("number", "0")) - 1
        return (run, index) if run is not None and 0 <= index < len(run.outputs) else (None, 0)

    def _refusal(self, request: web.Request, verdict: UrlVerdict) -> StoredAnswer:
        if verdict is UrlVerdict.GOOD:
            status, body = runs.missing()
        else:
            style, expires = self._simulator.media_style, request.query.get("Expires", "")
            status, body = runs.refusal(style, verdict, expires)
        return small(status, "application/xml; charset=utf-8", body.encode())

    async def _answer(self, request: web.Request, run: ScriptedRun, index: int, do: Do) -> StoredAnswer:
        # In a thread: hashing a large body must not keep others waiting.
        stored = await asyncio.to_thread(self._stored, run, index, do)
        fields = {name.lower(): value for name, value in request.headers.items()}
        if do.ignore_range:
            fields.pop("range", None)
        return answer(stored, fields, beside=do.wrong_content_range or 0)

    def _stored(self, run: ScriptedRun, index: int, do: Do) -> StoredBody:
        simulator = self._simulator
        digests = simulator.digests(run.run_id, index)
        stored = stored_object(run, index, run.body(index), digests, simulator.media_style)
        if do is _NO_FAULT:
            return stored
        return disturbed(stored, do, simulator.media_style, next(simulator.variants))
