"""How floradl speaks to whoever runs it: events with keys, on stderr, redacted as their last step.

Everywhere else: `_log = get_logger()`, then `_log.info("run_finished", run=..., duration=...)`. An event is a
fixed name; what varies stands in its keys. Once a command has called `configure`, one handler writes all,
other libraries' records too. In a program that only imports floradl nothing is set up: events are records of
the logger `floradl`, which are JSON, redacted, and silent unless that program sets up `logging`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO

import structlog

from floradl.redaction import Secret, printable, redact_value, remember

Format = Literal["auto", "console", "json"]

# They tell whole URLs, or each file that they see, at INFO and below.
_QUIET: Final = ("httpx", "httpcore", "watchfiles", "asyncio", "aiohttp.access")
_COLOURS: Final[Mapping[str, str]] = {
    "debug": "\x1b[2m",
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[1;31m",
}
_FIRST: Final = ("timestamp", "level", "event")
_PLAIN: Final = "\x1b[0m"
_DIM: Final = "\x1b[2m"
_BOLD: Final = "\x1b[1m"
_MARGIN: Final = "    | "
_LOGGER: Final = logging.getLogger("floradl")
_LOGGER.addHandler(logging.NullHandler())  # else Python writes warnings that no handler takes to stderr


def get_logger() -> structlog.stdlib.BoundLogger:
    """Return a logger for the events of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        _LOGGER,
        PROCESSORS,
        _BoundLogger,
        cache_logger_on_first_use=True,  # to make one costs more than most lines
    )
    return logger


class _BoundLogger(structlog.stdlib.BoundLogger):
    """Asks first whether an event of no trouble is written at all: each run and file has some."""

    def info(self, event: str | None = None, *args: Any, **kw: Any) -> Any:
        return super().info(event, *args, **kw) if _LOGGER.isEnabledFor(logging.INFO) else None

    def debug(self, event: str | None = None, *args: Any, **kw: Any) -> Any:
        return super().debug(event, *args, **kw) if _LOGGER.isEnabledFor(logging.DEBUG) else None


def configure(
    level: str = "info",
    format: str = "auto",  # noqa: A002  # as the setting is called
    stream: TextIO | None = None,
    secrets: Iterable[Secret] = (),
) -> None:
    """Send all logging to `stream` (None: whatever `sys.stderr` is at that moment). Twice is safe.

    `level` and `format` are words of the settings `log.level` and `log.format`; "auto" is console on a
    terminal, JSON lines otherwise. `secrets` are hidden wherever they occur.
    """
    for secret in secrets:
        remember(secret)
    target = stream or sys.stderr
    terminal = target is not None and target.isatty()
    console = format == "console" or (format == "auto" and terminal)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,  # the traceback alone: locals hold keys and signed URLs
    ]
    renderer = _Console(colours=terminal and not os.environ.get("NO_COLOR")) if console else _json
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _redacted, renderer],
    )
    _install(_Handler(stream, formatter))
    change_level(level)
    # Loggers keep what they were first used with, and with it this list: they obey a second call, too.
    PROCESSORS[:] = [
        structlog.stdlib.filter_by_level,
        *shared,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ]
    structlog.configure(
        processors=PROCESSORS,
        wrapper_class=_BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def change_level(level: str) -> None:
    """Say as much as `level`, a word of the setting `log.level`, from now on."""
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger().setLevel(number)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def catch_strays() -> None:
    """Log what nobody catches in a thread, or while something is cleared away. Twice is safe.

    Python itself would write it to stderr as it is, secrets included.
    """
    log = logging.getLogger("floradl")

    def in_thread(stray: threading.ExceptHookArgs) -> None:
        if stray.exc_type is not SystemExit:
            log.critical("thread_died", exc_info=stray.exc_value or stray.exc_type())

    def unraisable(stray: sys.UnraisableHookArgs) -> None:
        log.critical("stray_exception", exc_info=stray.exc_value or stray.exc_type())

    threading.excepthook = in_thread
    sys.unraisablehook = unraisable


class _Handler(logging.Handler):
    """Writes a line to the stream. Where nobody reads any more, work goes on in silence."""

    def __init__(self, stream: TextIO | None, formatter: logging.Formatter) -> None:
        super().__init__()
        self.stream = stream
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001  # one line that cannot be written must not stop the work
            lost = {"level": "error", "event": "log_line_lost", "logger": record.name}
            line = json.dumps(lost | {"error": type(error).__name__})
        stream = self.stream or sys.stderr  # which a progress display may have replaced meanwhile
        try:
            stream.write(line + "\n")
            stream.flush()
        except (AttributeError, OSError, ValueError):
            return  # a closed pipe, or no stderr at all


def _install(handler: _Handler) -> None:
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)


def _redacted(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    safe: dict[str, Any] = redact_value(event)
    first: dict[str, Any] = {key: safe.pop(key) for key in _FIRST if key in safe}
    return first | safe


def _json(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    return json.dumps(event, separators=(",", ":"))


PROCESSORS: Final[list[structlog.typing.Processor]] = [
    structlog.stdlib.filter_by_level,
    structlog.processors.format_exc_info,
    _redacted,
    _json,
]
"""What each event goes through; `configure` replaces them."""


class _Console:
    """Renders an event for a person: time, level, event, then `key=value`; a traceback below, indented.

    Whatever came from outside is escaped: it can neither start a line nor steer the terminal.
    """

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
        rest = dict(event)
        time = str(rest.pop("timestamp", ""))[11:19]
        level, name = str(rest.pop("level", "")), printable(str(rest.pop("event", "")))
        blocks = [str(rest.pop(key)) for key in ("exception", "stack") if rest.get(key)]
        pairs = "".join(
            f" {self._paint(_DIM, printable(key) + '=')}{_shown(item)}" for key, item in rest.items()
        )
        head = f"{self._paint(_DIM, time)} {self._paint(_COLOURS.get(level, ''), f'{level:<8}')}"
        below = "".join(f"\n{_MARGIN}{printable(line)}" for block in blocks for line in block.splitlines())
        return f"{head} {self._paint(_BOLD, name)}{pairs}{below}"

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._colours and colour else text


def _shown(value: Any) -> str:
    if not isinstance(value, str):
        return printable(repr(value))
    escaped = printable(value)
    if escaped == value and value and not any(char in " =\"'\\" for char in value):
        return value
    return printable(json.dumps(value, ensure_ascii=False))
