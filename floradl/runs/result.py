"""The result of a run, from FLORA's last answer and its outputs, for sidecars and `status`. Pure."""

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

_MISSED = 2  # times of NOT_FOUND, before a fresh URL is requested
_TRIES = 5  # of an error that is never given up, before the run is polled again
_FAILED_AT_FLORA = {
    ErrorCode.PROVIDER_ERROR,
    ErrorCode.MODEL_TIMEOUT,
    ErrorCode.SAFETY_BLOCKED,
    ErrorCode.INPUT_UNREACHABLE,
    ErrorCode.INTERNAL_ERROR,
}


class Finished(Struct, frozen=True):
    """`run` is done, partial or failed, and recorded so; no `summary` where all of it was saved before."""

    run: QueuedRun
    summary: RunSummary | None


class Dropped(Struct, frozen=True):
    """The run is not open any more: another process finished it, or it was forgotten."""


Outcome: TypeAlias = Finished | Dropped | RetryIn | Halted


class RetryState:
    """The attempts at one output: how often each error occurred, and the time they took.

    `stale` is whether the next one needs a fresh URL. `delay` returns the seconds until the next attempt,
    None to give up, for an error and how often it occurred.
    """

    def __init__(
        self, delay: Callable[[TransientError, int], float | None], monotonic: Callable[[], float]
    ) -> None:
        self._delay = delay
        self._monotonic = monotonic
        self._counts: Counter[ErrorCode] = Counter()
        self._began: float | None = None
        self._spent = 0.0
        self._last = TransientError("it was not tried yet")
        self.stale = False

    def begin(self) -> None:
        """Record that a download begins; the wait for a slot before does not count."""
        self._began = self._monotonic()

    def failed(self, error: TransientError) -> float | None:
        """Return the seconds until the next attempt, None to give the output up.

        Raises `AttemptsExhaustedError` where an error that is never given up occurred too often.
        """
        if self._began is not None:
            self._spent += self._monotonic() - self._began
            self._began = None
        self._last = error
        self._counts[error.code] += 1
        count = self._counts[error.code]
        delay = self._delay(error, count)
        if error.code is not ErrorCode.EXPIRED:
            del self._counts[ErrorCode.EXPIRED]  # the URL was good meanwhile
        if isinstance(error, ExpiredUrlError):
            self.stale = True
            if count == 1 and error.code is not ErrorCode.BAD_URL:
                delay = 0.0  # FLORA has a fresh one now
        elif error.code is ErrorCode.NOT_FOUND and count == _MISSED:
            self.stale = True
        if delay is None:
            return None
        if isinstance(error, FolderError):  # its slot is for others
            raise AttemptsExhaustedError(error, self._spent) from error
        self._spent += delay
        if count > _TRIES and not is_given_up(error.code):
            raise AttemptsExhaustedError(error, self._spent) from error
        return delay

    def exhausted(self) -> AttemptsExhaustedError:
        """Return what says that more attempts are of no use before the run was polled again."""
        return AttemptsExhaustedError(self._last, self._spent)


def reason_of(answer: RemoteRun) -> RunFailure:
    """Return why FLORA failed it: a code of our closed list, and FLORA's message."""
    message = cut(answer.error_message or "FLORA gives no reason")
    try:
        code = ErrorCode(answer.error_code or "")
    except ValueError:
        code = ErrorCode.RUN_FAILED
    if code not in _FAILED_AT_FLORA:
        return RunFailure(ErrorCode.RUN_FAILED, f"{cut(answer.error_code or 'failed', 100)}: {message}")
    return RunFailure(code, message)


class RunResult(msgspec.Struct, frozen=True):
    """How a run ends: `error` is for the top of the sidecar, `reason` for `status`.

    `failed` is why FLORA failed it, None where it did not.
    """

    result: Result
    error: RunFailure | None
    reason: RunFailure | None
    outputs: tuple[SavedOutput, ...] = ()
    failed: RunFailure | None = None


def result_of(outputs: list[SavedOutput], failed: RunFailure | None = None) -> RunResult:
    """Return the result of a run from its `outputs`, and from why FLORA `failed` it, if it did."""
    if failed is not None:  # its outputs were paid for, and are kept
        return RunResult(Result.FAILED, failed, failed, tuple(outputs), failed)
    bad = [(output.output_id[:60], output.error) for output in outputs if output.error is not None]
    if not bad:  # what was left out on purpose is no failure
        return RunResult(Result.COMPLETE, None, None, tuple(outputs))
    reasons = "; ".join(f"{output_id}: {error.message}" for output_id, error in bad[:3])
    if len(bad) < sum(output.skipped is None for output in outputs):
        return RunResult(Result.PARTIAL, None, RunFailure(bad[0][1].code, reasons), tuple(outputs))
    failure = RunFailure(ErrorCode.NO_OUTPUTS, f"no output is available: {reasons}")
    return RunResult(Result.FAILED, failure, failure, tuple(outputs))


def with_earlier(
    before: dict[str, SavedOutput], removed: dict[str, SavedOutput], result: RunResult
) -> RunResult:
    """Return `result` with earlier outputs in place of unavailable ones.

    One whose file was `removed`, and that is unavailable now, is both.
    """
    outputs = by_key(result.outputs)
    for key, output in outputs.items():
        if output.error and key in removed:
            outputs[key] = msgspec.structs.replace(removed[key], error=output.error)
    kept = [before.get(key, output) if output.error else output for key, output in outputs.items()]
    once: dict[str, SavedOutput] = {}
    for place, output in enumerate(kept):
        once.setdefault(output.path or f"\0{place}", output)
    return result_of(list(once.values()), result.failed)


def _fetched_texts(answer: RemoteRun | None, result: RunResult) -> set[str]:
    """Return the text outputs that are only a URL, which was fetched."""
    fetched = {
        key for key, output in by_key(result.outputs).items() if output.kind is OutputKind.TEXT and output.url
    }
    return {output.url for output in (answer.outputs if answer else ()) if output.key in fetched}


def sidecar_of(run: QueuedRun, answer: RemoteRun | None, result: RunResult, now: float) -> Sidecar:
    """Return the sidecar of a finished run; `answer` is FLORA's last, `now` is unix seconds."""
    technique = run.technique
    names = run.names.updated(answer.names) if answer else run.names
    technique_id = technique if technique and technique.startswith("tech_") else None
    fetched_texts = _fetched_texts(answer, result)
    return Sidecar(
        floradl_version=__version__,
        reference=str(run.reference),
        technique=technique,
        technique_id=names.technique_id or technique_id,
        technique_name=names.technique_name,
        workspace_id=names.workspace_id,
        project_id=names.project_id,
        project_name=names.project_name,
        model_id=names.model_id,
        run_id=run.run_id,
        label=run.label,
        meta=run.meta,
        result=result.result,
        run=public_run(answer.raw, fetched_texts) if answer else None,
        outputs=result.outputs,
        error=result.error,
        times=Times(
            queued_at=rfc3339(run.queued_at),
            created_at=rfc3339(answer.created_at) if answer else None,
            started_at=rfc3339(answer.started_at) if answer else None,
            completed_at=rfc3339(answer.completed_at) if answer else None,
            detected_at=rfc3339(run.detected_at),
            finished_at=rfc3339(now),
        ),
    )
