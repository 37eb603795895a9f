"""Brings the media that FLORA techniques generate home.

    async for run in floradl.fetch(["campaign/run_abc123"], library="~/flora/library"):
        print(run.result, run.files)

`fetch_sync` is the same without an event loop; `Library(path).runs()` reads what is there: docs/python.md.
What is imported here costs nothing until it is used.
"""

TYPE_CHECKING = False  # as type checkers know it; the import of `typing` costs more than all of this

if TYPE_CHECKING:
    from floradl.errors import (
        ConfigError,
        ErrorCode,
        FloradlError,
        PauseReason,
        ServicePausedError,
        TransientError,
    )
    from floradl.models import OutputKind, RemovalReason, Result, RunFailure, SkipReason
    from floradl.python_api import Library, Output, Run, fetch, fetch_sync

__version__ = "0.2.0"
UNSUPPORTED = "it runs on Linux and macOS; on Windows use WSL, or the container (docs/docker.md)"
__all__ = [
    "ConfigError",
    "ErrorCode",
    "FloradlError",
    "Library",
    "Output",
    "OutputKind",
    "PauseReason",
    "RemovalReason",
    "Result",
    "Run",
    "RunFailure",
    "ServicePausedError",
    "SkipReason",
    "TransientError",
    "__version__",
    "fetch",
    "fetch_sync",
]
_PLACES = {
    "errors": (
        "ConfigError",
        "ErrorCode",
        "FloradlError",
        "PauseReason",
        "ServicePausedError",
        "TransientError",
    ),
    "models": ("OutputKind", "RemovalReason", "Result", "RunFailure", "SkipReason"),
    "python_api": ("Library", "Output", "Run", "fetch", "fetch_sync"),
}


if not TYPE_CHECKING:  # which take any name to be there otherwise

    def __getattr__(name: str) -> object:
        """Import what a program uses of it, on first use."""
        import sys  # noqa: PLC0415 - all of it is for those who use it
        from importlib import import_module  # noqa: PLC0415

        place = next((place for place, names in _PLACES.items() if name in names), None)
        if place is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if sys.platform == "win32":
            raise ImportError(f"floradl.{name} cannot be used: {UNSUPPORTED}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{place}"), name)
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
