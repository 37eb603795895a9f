"""How runs end: what FLORA's last answer and the outputs come to, for sidecars and `status`. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import msgspec
from msgspec import Struct

from floradl import __version__
from floradl.clock import rfc3339
from floradl.errors import AttemptsExhaustedError, ErrorCode, ExpiredUrlError, FolderError, TransientError
from floradl.library.sidecar import Sidecar, Times, by_key, public_run
from floradl.models import OutputKind, QueuedRun, RemoteRun, Result, RunFailure, SavedOutput
from floradl.redaction import cut
from floradl.retry import Halted, RetryIn, is_given_up
from floradl.runs.events import RunSummary


class Finished(Struct, frozen=True):
    """`run` is done, partial or failed, and recorded so; without a `summary` all of it stood already."""

    run: QueuedRun
    summary: RunSummary | None


class Dropped(Struct, frozen=True):
    """The run is not open any more: somebody else finished it, or it was forgotten."""


Outcome: TypeAlias = Finished | Dropped | RetryIn | Halted


_MISSED = 2  # times that a media host knows nothing of it, before FLORA is asked where it is now
_TRIES = 5  # of trouble without end, before the run is polled anew


class RetryState:
    """The attempts at one output: how often each kind of trouble was met, and what all of it took.

    `stale` says that a fresh URL is to be requested before the next one. `delay` gives the seconds
    until the next attempt as `after_trouble` does.
    """

    def __init__(
        self, delay: Callable[[TransientError, int], float | None], monotonic: Callable[[], float]
    ) -> None:
        self._delay = delay
        self._monotonic = monotonic
        self._met: Counter[ErrorCode] = Counter()
        self._began: float | None = None
        self._spent = 0.0
        self.stale = False

    def begin(self) -> None:
        """Record that a download begins: until then it only waited for a connection."""
        self._began = self._monotonic()

    def failed(self, error: TransientError) -> float | None:
        """Return the seconds until the next attempt, None where the output is given up.

        Raises `AttemptsExhaustedError` where trouble that is never given up was met too often.
        """
        if self._began is not None:
            self._spent += self._monotonic() - self._began
            self._began = None
        self._met[error.code] += 1
        met = self._met[error.code]
        delay = self._delay(error, met)
        if error.code is not ErrorCode.EXPIRED:
            del self._met[ErrorCode.EXPIRED]  # the URL was good meanwhile
        if isinstance(error, ExpiredUrlError):
            self.stale = True
            if met == 1 and error.code is not ErrorCode.BAD_URL:
                delay = 0.0  # a fresh one is there for the asking
        elif error.code is ErrorCode.NOT_FOUND and met == _MISSED:
            self.stale = True
        if delay is None:
            return None
        if isinstance(error, FolderError):  # others must not wait behind it
            raise AttemptsExhaustedError(error, self._spent) from error
        self._spent += delay
        if met > _TRIES and not is_given_up(error.code):
            raise AttemptsExhaustedError(error, self._spent) from error
        return delay


_FAILED_AT_FLORA = {
    ErrorCode.PROVIDER_ERROR,
    ErrorCode.MODEL_TIMEOUT,
    ErrorCode.SAFETY_BLOCKED,
    ErrorCode.INPUT_UNREACHABLE,
    ErrorCode.INTERNAL_ERROR,
}


def reason_of(answer: RemoteRun) -> RunFailure:
    """Return why FLORA failed it, in our closed list of codes and its own words."""
    said = cut(answer.error_message or "FLORA gives no reason")
    try:
        code = ErrorCode(answer.error_code or "")
    except ValueError:
        code = ErrorCode.RUN_FAILED
    if code not in _FAILED_AT_FLORA:
        return RunFailure(ErrorCode.RUN_FAILED, f"{cut(answer.error_code or 'failed', 100)}: {said}")
    return RunFailure(code, said)


class RunResult(msgspec.Struct, frozen=True):
    """How a run ends: `error` stands at the top of the sidecar, `reason` in `status`.

    `failed` is why FLORA failed it; None where it did not.
    """

    result: Result
    error: RunFailure | None
    reason: RunFailure | None
    outputs: tuple[SavedOutput, ...] = ()
    failed: RunFailure | None = None


def result_of(outputs: list[SavedOutput], failed: RunFailure | None = None) -> RunResult:
    """Return how a run ends whose outputs came to this, and that FLORA `failed` or not."""
    if failed is not None:  # what it brought all the same was paid for, and is kept
        return RunResult(Result.FAILED, failed, failed, tuple(outputs), failed)
    bad = [(output.output_id[:60], output.error) for output in outputs if output.error is not None]
    if not bad:
        return RunResult(Result.COMPLETE, None, None, tuple(outputs))
    told = "; ".join(f"{output_id}: {error.message}" for output_id, error in bad[:3])
    if len(bad) < len(outputs):
        return RunResult(Result.PARTIAL, None, RunFailure(bad[0][1].code, told), tuple(outputs))
    failure = RunFailure(ErrorCode.NO_OUTPUTS, f"no output could be had: {told}")
    return RunResult(Result.FAILED, failure, failure, tuple(outputs))


def with_earlier(before: dict[str, SavedOutput], ending: RunResult) -> RunResult:
    """Return the ending with outputs from before in the place of those that could not be had."""
    outputs = by_key(ending.outputs)
    kept = [before.get(key, output) if output.error else output for key, output in outputs.items()]
    once: dict[str, SavedOutput] = {}
    for place, output in enumerate(kept):
        once.setdefault(output.path or f"\0{place}", output)
    return result_of(list(once.values()), ending.failed)


def _fetched_texts(answer: RemoteRun | None, ending: RunResult) -> set[str]:
    """Return the words of the texts that were fetched, since they are nothing but a URL."""
    fetched = {
        key for key, output in by_key(ending.outputs).items() if output.kind is OutputKind.TEXT and output.url
    }
    return {output.url for output in (answer.outputs if answer else ()) if output.key in fetched}


def sidecar_of(run: QueuedRun, answer: RemoteRun | None, ending: RunResult, now: float) -> Sidecar:
    """Return the sidecar of a run that ended; `answer` is FLORA's last, `now` unix seconds."""
    technique = run.technique
    fetched_texts = _fetched_texts(answer, ending)
    return Sidecar(
        floradl_version=__version__,
        reference=str(run.reference),
        technique=technique,
        technique_id=technique if technique and technique.startswith("tech_") else None,
        run_id=run.run_id,
        label=run.label,
        result=ending.result,
        run=public_run(answer.raw, fetched_texts) if answer else None,
        outputs=ending.outputs,
        error=ending.error,
        times=Times(
            queued_at=rfc3339(run.queued_at),
            created_at=rfc3339(answer.created_at) if answer else None,
            started_at=rfc3339(answer.started_at) if answer else None,
            completed_at=rfc3339(answer.completed_at) if answer else None,
            detected_at=rfc3339(run.detected_at),
            finished_at=rfc3339(now),
        ),
    )
