"""Scripted runs as the API shows them at a given time, and the signed URLs of their media. No I/O."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from msgspec import Struct

from floradl.simulator import formats
from floradl.simulator.formats import Body, literal

TimeUnit = Literal["s", "ms"]
WebhookSigning = Literal["each", "once"]
ProgressStyle = Literal["even", "lumpy"]

# Share of the work done, and the lumpy `progress` from there on: of engines whose steps differ in length.
_LUMPS = ((0.0, 0), (0.05, 35), (0.4, 22), (0.55, 80), (0.9, 71))


class MediaStyle(StrEnum):
    """Which object store the media host behaves like."""

    GCS = "gcs"
    S3 = "s3"


class UrlVerdict(StrEnum):
    """Whether a signed URL opens."""

    GOOD = "good"
    EXPIRED = "expired"
    FORGED = "forged"


class Signer(Struct, frozen=True):
    """Signs and checks paths of the media host."""

    secret: bytes

    def sign(self, path: str, serial: int, expires: float) -> str:
        """Return the query string that opens `path` until `expires` (unix seconds)."""
        until = f"{expires:.3f}".rstrip("0").rstrip(".")
        account = f"sim-{serial}"
        signature = self._signature(path, account, until)
        return urlencode({"GoogleAccessId": account, "Expires": until, "Signature": signature})

    def check(self, path: str, query: Mapping[str, str], now: float, *, revoked_to: int = -1) -> UrlVerdict:
        """Check a request; serials up to `revoked_to` count as expired whatever their time."""
        account, until = query.get("GoogleAccessId", ""), query.get("Expires", "")
        expected = self._signature(path, account, until)
        if not hmac.compare_digest(expected.encode(), query.get("Signature", "").encode()):
            return UrlVerdict.FORGED
        if now > float(until) or int(account.removeprefix("sim-")) <= revoked_to:
            return UrlVerdict.EXPIRED
        return UrlVerdict.GOOD

    def _signature(self, path: str, account: str, until: str) -> str:
        return hmac.new(self.secret, f"{path}\n{account}\n{until}".encode(), hashlib.sha256).hexdigest()


def refusal(style: MediaStyle, verdict: UrlVerdict, expires: str) -> tuple[int, str]:
    """Return the status and XML that the store answers to a forged or expired URL."""
    if verdict is UrlVerdict.FORGED:
        return 403, _xml("SignatureDoesNotMatch", "The signature does not match the one we computed.")
    try:
        moment = datetime.fromtimestamp(float(expires), UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        moment = "unknown"
    if style is MediaStyle.S3:
        return 403, _xml("AccessDenied", "Request has expired", f"<Expires>{moment}</Expires>")
    details = f"<Details>Request signature expired at: {moment}</Details>"
    return 400, _xml("ExpiredToken", "The provided token has expired.", details)


def missing() -> tuple[int, str]:
    """Return the status and XML for an object that does not exist."""
    return 404, _xml("NoSuchKey", "The specified key does not exist.")


def _xml(code: str, message: str, details: str = "") -> str:
    body = f"<Code>{code}</Code><Message>{escape(message)}</Message>{details}"
    return f"<?xml version='1.0' encoding='UTF-8'?><Error>{body}</Error>"


class OutputSpec(Struct, frozen=True):
    """One output of a scripted run, and the media behind it.

    The media host serves a picture, clip, tune, page or text that goes with `type`, of `size` bytes (or of a
    natural size). `text` is the text of a `text` output; one without `text` but with a `size` is a URL of a
    text file. `url` replaces the signed URL (`{media}` in it becomes the media host's address); `body`
    replaces the bytes. `headers` are laid over the answer's (`None` removes one), and `rate` throttles it, in
    bytes per second.
    """

    output_id: str = "output_1"
    type: str = "imageUrl"
    size: int | None = None
    text: str | None = None
    url: str | None = None
    headers: Mapping[str, str | None] = {}
    body: bytes | None = None
    content_type: str | None = None
    rate: float | None = None

    @property
    def inline(self) -> bool:
        """Whether the API sends the text itself in place of a URL."""
        hosted = self.url is not None or self.size is not None or self.body is not None
        return self.text is not None or (self.type == "text" and not hosted)


class Media(Struct, frozen=True):
    """How a type of output is made and served."""

    make: Callable[[str, str, int | None], Body]
    content_type: str
    extension: str


_MEDIA: Mapping[str, Media] = {
    "imageUrl": Media(formats.png, "image/png", ".png"),
    "videoUrl": Media(formats.mp4, "video/mp4", ".mp4"),
    "audioUrl": Media(formats.wav, "audio/wav", ".wav"),
    "documentUrl": Media(formats.pdf, "application/pdf", ".pdf"),
    "text": Media(formats.text, "text/plain; charset=utf-8", ".txt"),
}
_OTHER = Media(formats.binary, "application/octet-stream", ".bin")


def media_of(output: OutputSpec) -> Media:
    """Return how an output is made; a type that FLORA does not have is plain bytes."""
    return _MEDIA.get(output.type, _OTHER)


class Technique(Struct, frozen=True):
    """A technique as `GET /techniques/{techniqueId}` shows it; `outputs` are what its runs make."""

    technique_id: str
    slug: str
    name: str
    description: str = ""
    run_cost: float = 0.05
    duration: float = 4.0
    outputs: tuple[OutputSpec, ...] = ()

    def named(self, name: str) -> bool:
        """Whether `name` is this technique's id or slug."""
        return name in {self.technique_id, self.slug}


class RunKind(StrEnum):
    """What was started."""

    TECHNIQUE = "technique"
    GENERATION = "generation"
    ACTION = "action"


class ScriptedRun(Struct, frozen=True, kw_only=True):
    """A run with all its times, in unix seconds; `callback_url` gets a webhook when it ends."""

    run_id: str
    kind: RunKind
    created: float
    duration: float
    technique: Technique | None = None
    outputs: tuple[OutputSpec, ...] = ()
    fail: tuple[str, str] | None = None
    workspace_id: str = "ws_simulator"
    project_id: str = "prj_simulator"
    model_id: str | None = None
    callback_url: str | None = None

    @property
    def started(self) -> float:
        """When it leaves the queue: after a fifth of its time, half a second at most."""
        return self.created + min(self.duration * 0.2, 0.5)

    @property
    def ended(self) -> float:
        """When it is completed or failed."""
        return self.created + self.duration

    def status(self, now: float) -> str:
        """Return the API's `status` at `now`."""
        if now >= self.ended:
            return "failed" if self.fail else "completed"
        return "running" if now >= self.started else "pending"

    def progress(self, now: float, style: ProgressStyle = "even") -> int:
        """Return the API's `progress` at `now`, 0 to 100; 63 for a run that failed."""
        if now < self.started:
            return 0
        if now >= self.ended:
            return 63 if self.fail else 100
        done = (now - self.started) / (self.ended - self.started)
        if style == "even":
            return int(99 * done)
        shift = hashlib.sha256(self.run_id.encode("utf-8", "surrogatepass")).digest()[0] % 16
        return next(value for share, value in reversed(_LUMPS) if share <= done) + shift

    def body(self, index: int) -> Body:
        """Make the bytes of one output (its position, from 0). Raises `ValueError` as `formats` does."""
        output = self.outputs[index]
        if output.body is not None:
            return Body((literal(output.body),))
        seed = f"{self.run_id}/{index}/{output.output_id}"
        return media_of(output).make(seed, f"{self.run_id} {output.output_id}", output.size)


class Addresses(Struct, frozen=True):
    """How URLs in an answer are made: one to poll at, and one per output (its position, from 0)."""

    poll: Callable[[ScriptedRun], str]
    output: Callable[[ScriptedRun, int], str]


def run_json(
    run: ScriptedRun,
    now: float,
    addresses: Addresses,
    unit: TimeUnit = "s",
    progress: ProgressStyle = "even",
) -> dict[str, Any]:
    """Return a run as `GET /techniques/{techniqueId}/runs/{runId}` answers it at `now`."""
    status = run.status(now)
    answer: dict[str, Any] = {
        "run_id": run.run_id,
        "status": status,
        "progress": run.progress(now, progress),
        "created_at": _time(run.created, unit),
        "poll_url": addresses.poll(run),
    }
    if status != "pending":
        answer["started_at"] = _time(run.started, unit)
    if status in {"completed", "failed"}:
        answer["completed_at"] = _time(run.ended, unit)
        answer["charged_cost"] = 0 if run.fail else run.technique.run_cost if run.technique else 0.04
    if status == "failed" and run.fail:
        answer["error_code"], answer["error_message"] = run.fail
    if status == "completed":
        answer["outputs"] = [
            {"output_id": output.output_id, "type": output.type, "url": addresses.output(run, index)}
            for index, output in enumerate(run.outputs)
        ]
    return answer


def listed_json(run: ScriptedRun, answer: dict[str, Any]) -> dict[str, Any]:
    """Extend a run's answer to what `GET /technique-runs` and `GET /generations` list."""
    answer |= {"workspace_id": run.workspace_id, "project_id": run.project_id}
    if run.technique is not None:
        answer["technique_run_id"] = run.run_id
        answer["technique"] = {"technique_id": run.technique.technique_id, "name": run.technique.name}
    else:
        answer["generation_id"] = run.run_id
        answer["model"] = {"model_id": run.model_id}
    return answer


def technique_json(technique: Technique) -> dict[str, Any]:
    """Return a technique as `GET /techniques/{techniqueId}` answers it."""
    prompt = {"id": "prompt", "name": "Prompt", "type": "text", "optional": True}
    outputs = [
        {"id": output.output_id, "name": output.output_id.replace("_", " ").capitalize(), "type": output.type}
        for output in technique.outputs
    ]
    return {
        "technique_id": technique.technique_id,
        "name": technique.name,
        "description": technique.description,
        "run_cost": technique.run_cost,
        "inputs": [prompt],
        "outputs": outputs,
    }


def _time(seconds: float, unit: TimeUnit) -> float | int:
    return round(seconds * 1000) if unit == "ms" else round(seconds, 3)


VERDICT = (
    "The composition leads the eye well, and the light is kind to the mug.\n"
    "Bring the horizon down a little, and let the shadow breathe: it is the second subject of this picture.\n"
)


def technique_id_of(slug: str) -> str:
    """Return the `tech_…` id of a slug."""
    return "tech_" + hashlib.sha256(slug.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _technique(slug: str, description: str, *outputs: OutputSpec) -> Technique:
    name = slug.replace("-", " ").capitalize()
    return Technique(technique_id_of(slug), slug, name, description, outputs=outputs)


BUILT_IN = (
    _technique(
        "art-directors-critique",
        "A picture, and what an art director says about it",
        OutputSpec("output_1", "imageUrl"),
        OutputSpec("critique", "text", text=VERDICT),
    ),
    _technique("product-shot", "One still", OutputSpec("output_1", "imageUrl")),
    _technique("camera-move", "A short clip", OutputSpec("output_1", "videoUrl")),
    _technique("sound-bed", "A tune", OutputSpec("output_1", "audioUrl")),
    _technique("brand-sheet", "A page to print", OutputSpec("output_1", "documentUrl")),
    _technique("tagline", "A line of text", OutputSpec("output_1", "text", text="Grown, not made.\n")),
    _technique(
        "campaign",
        "Outputs of all five types",
        OutputSpec("hero", "imageUrl"),
        OutputSpec("film", "videoUrl"),
        OutputSpec("jingle", "audioUrl"),
        OutputSpec("brief", "documentUrl"),
        OutputSpec("claim", "text", text="Grown, not made.\n"),
    ),
)
