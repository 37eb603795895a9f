"""The media host: signed URLs that run out, Range, checksums, and no idea of the API's key."""

from __future__ import annotations

import asyncio

from aiohttp import web

from floradl.simulator import ranges, signing, web as wire
from floradl.simulator.faults import Do
from floradl.simulator.ranges import Answer, StoredObject
from floradl.simulator.replacing import small
from floradl.simulator.runs import ScriptedRun
from floradl.simulator.signing import Verdict
from floradl.simulator.state import Simulator
from floradl.simulator.storing import disturbed, stored_object

_NOTHING = Do()


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
        exchange = wire.Exchange(self._simulator, "media", request)
        begun = await exchange.begin()
        if isinstance(begun, web.StreamResponse):
            return begun
        if begun is not None:
            return await exchange.finish(begun)
        do = exchange.do or _NOTHING
        verdict = self._verdict(request, do)
        run, index = self._output(request)
        if verdict is not Verdict.GOOD or run is None:
            return await exchange.finish(self._refusal(request, verdict))
        rate = run.outputs[index].rate
        answer = await self._answer(request, run, index, do)
        return await exchange.finish(answer, rate and rate * self._simulator.speed)

    def _verdict(self, request: web.Request, do: Do) -> Verdict:
        if "run_id" not in request.match_info:
            return Verdict.GOOD  # nothing is here, whatever the signature
        if do.expire:
            return Verdict.EXPIRED
        simulator = self._simulator
        path = request.rel_url.raw_path
        return simulator.signer.check(path, request.query, simulator.now(), revoked_to=simulator.revoked_to)

    def _output(self, request: web.Request) -> tuple[ScriptedRun | None, int]:
        run = self._simulator.run(request.match_info.get("run_id", ""))
        index = int(request.match_info.get("number", "0")) - 1
        return (run, index) if run is not None and 0 <= index < len(run.outputs) else (None, 0)

    def _refusal(self, request: web.Request, verdict: Verdict) -> Answer:
        if verdict is Verdict.GOOD:
            status, body = signing.missing()
        else:
            style, expires = self._simulator.media_style, request.query.get("Expires", "")
            status, body = signing.refusal(style, verdict, expires)
        return small(status, "application/xml; charset=utf-8", body.encode())

    async def _answer(self, request: web.Request, run: ScriptedRun, index: int, do: Do) -> Answer:
        # In a thread: hashing a large body must not keep others waiting.
        stored = await asyncio.to_thread(self._stored, run, index, do)
        fields = {name.lower(): value for name, value in request.headers.items()}
        if do.ignore_range:
            fields.pop("range", None)
        return ranges.answer(stored, fields, beside=do.wrong_content_range or 0)

    def _stored(self, run: ScriptedRun, index: int, do: Do) -> StoredObject:
        simulator = self._simulator
        digests = simulator.digests(run.run_id, index)
        stored = stored_object(run, index, run.body(index), digests, simulator.media_style)
        if do is _NOTHING:
            return stored
        return disturbed(stored, do, simulator.media_style, simulator.next_variant())
