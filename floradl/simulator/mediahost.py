"""The media host: signed URLs that run out, Range, checksums, and no idea of the API's key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from email.utils import formatdate

from aiohttp import web

from floradl.simulator import ranges, signing, web as wire
from floradl.simulator.bodies import Digests
from floradl.simulator.ranges import Answer, StoredObject
from floradl.simulator.runs import OutputSpec, ScriptedRun, media_of
from floradl.simulator.signing import MediaStyle, Verdict
from floradl.simulator.state import Simulator

_TICK = 0.05  # a throttled body is sent in pieces of this many seconds


class MediaHost:
    """The handlers. They read one `Simulator`."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def application(self) -> web.Application:
        """Build the application, with its objects below `/media`."""
        app = web.Application(middlewares=[self._in_xml])
        app.router.add_get("/media/{run_id}/{number:[0-9]{1,6}}{extension:[.][a-z0-9]+}", self._media)
        app.on_response_prepare.append(self._before_sending)
        return app

    @web.middleware
    async def _in_xml(self, request: web.Request, handler: wire.Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return _xml(*signing.missing())

    async def _before_sending(self, request: web.Request, response: web.StreamResponse) -> None:
        wire.record(self._simulator, "media", request, response.status)

    async def _media(self, request: web.Request) -> web.StreamResponse:
        simulator = self._simulator
        verdict = simulator.signer.check(
            request.rel_url.raw_path, request.query, simulator.now(), revoked_to=simulator.revoked_to
        )
        if verdict is not Verdict.GOOD:
            return _xml(*signing.refusal(simulator.media_style, verdict, request.query.get("Expires", "")))
        run = simulator.run(request.match_info["run_id"])
        index = int(request.match_info["number"]) - 1
        if run is None or not 0 <= index < len(run.outputs):
            return _xml(*signing.missing())
        # In a thread: hashing a large body must not keep others waiting.
        digests = await asyncio.to_thread(simulator.digests, run.run_id, index)
        stored = _stored(run, index, digests, simulator.media_style)
        fields = {name.lower(): value for name, value in request.headers.items()}
        with closing(wire.Opened(simulator.counters, "media")) as opened:
            return await self._send(request, ranges.answer(stored, fields), run.outputs[index], opened)

    async def _send(
        self, request: web.Request, answer: Answer, output: OutputSpec, opened: wire.Opened
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=_laid_over(answer, output))
        response.content_length = answer.length
        await response.prepare(request)
        left = answer.length
        rate = None if output.rate is None else output.rate * self._simulator.speed
        try:
            async for piece in _paced(answer, rate):
                if request.method == "HEAD":
                    break
                self._simulator.counters.bytes_sent += len(piece)
                left -= len(piece)
                if not left:
                    opened.close()
                await response.write(piece)
            await response.write_eof()
        except ConnectionError:
            pass  # the client left
        return response


async def _paced(answer: Answer, rate: float | None) -> AsyncIterator[bytes]:
    """Yield the bytes to send, not faster than `rate` bytes a second."""
    if rate is None:
        for chunk in answer.body.chunks(answer.start, answer.stop):
            yield chunk
        return
    step = max(int(rate * _TICK), 1)
    for start in range(answer.start, answer.stop, step):
        stop = min(start + step, answer.stop)
        await asyncio.sleep((stop - start) / rate)
        yield answer.body.read(start, stop)


def _stored(run: ScriptedRun, index: int, digests: Digests, style: MediaStyle) -> StoredObject:
    output = run.outputs[index]
    headers = {"Content-Type": output.content_type or media_of(output).content_type}
    if style is MediaStyle.GCS:
        hashes = [f"crc32c={digests.crc32c}"] + ([f"md5={digests.md5}"] if digests.md5 else [])
        headers |= {
            "x-goog-hash": ",".join(hashes),
            "x-goog-stored-content-encoding": "identity",
            "x-goog-stored-content-length": str(run.body(index).size),
            "x-goog-generation": str(round(run.ended * 1e6)),
        }
    # A composite object's ETag is not an MD5, at GCS as at S3: it has a part count there.
    etag = digests.md5_hex or f"{digests.crc32c.encode().hex():0<32}-2"
    return StoredObject(run.body(index), f'"{etag}"', formatdate(int(run.ended), usegmt=True), headers)


def _laid_over(answer: Answer, output: OutputSpec) -> dict[str, str]:
    """Give the answer's headers with those of the script laid over them, whatever their case."""
    headers = dict(answer.headers)
    for name, value in output.headers.items():
        for known in [known for known in headers if known.lower() == name.lower()]:
            del headers[known]
        if value is not None:
            headers[name] = value
    return headers


def _xml(status: int, body: str) -> web.Response:
    return web.Response(text=body, status=status, content_type="application/xml")
