"""Quick starts and little memory: lazy imports of parts of packages, and malloc settings."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

_MMAP_THRESHOLD: Final = -3  # malloc.h
_ARENA_MAX: Final = -8
_LARGE: Final = 1 << 20  # bytes


def return_what_is_freed() -> None:
    """Have glibc map large blocks singly and give threads one heap, so that freed memory is returned.

    By itself it raises the size of what counts as large to 32 MB, and keeps what is smaller.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_ARENA_MAX, 2)


if TYPE_CHECKING:
    from importlib.abc import Loader  # this import costs more than some of the others save

# structlog imports rich for tracebacks, which are never shown, httpx for its own command line; anyio imports
# sniffio to find itself. All work without.
_WITHOUT: Final = ("rich", "httpx._main", "sniffio")

_ERRORS: Final = (
    "ConnectError ConnectTimeout LocalProtocolError NetworkError PoolTimeout ProtocolError ProxyError "
    "ReadError ReadTimeout RemoteProtocolError TimeoutException UnsupportedProtocol WriteError WriteTimeout"
)
# Which module of a package has the names that floradl uses. Their `__init__` would import unused clients,
# servers and formats.
PACKAGES: Final = {
    "google_crc32c": {"_crc32c": "extend"},
    "httpcore": {"_backends.base": "NetworkStream", "_backends.sync": "SyncBackend", "_exceptions": _ERRORS},
    "httpx": {
        "_config": "Proxy Timeout create_ssl_context",
        "_exceptions": f"{_ERRORS} DecodingError InvalidURL RequestError TransportError",
        "_models": "Headers Request Response",
        "_status_codes": "codes",
        "_types": "SyncByteStream",
        "_urls": "URL",
    },
    "msgspec": {
        "_core": (
            "DecodeError EncodeError Meta MsgspecError NODEFAULT Raw Struct UNSET UnsetType ValidationError "
            "convert to_builtins field=Field"
        ),
        "json": "",
        "msgpack": "",
        "structs": "",
    },
    "structlog": {
        "_config": "configure wrap_logger",
        "contextvars": "",
        "processors": "",
        "stdlib": "",
        "typing": "",
    },
}
"""The names by module; `name=Other` is called `Other` there, and a module without any is used itself."""

# Imported for cookies, schemas, pickles and tracebacks as JSON, which floradl does not use.
_EMPTY: Final = ("http.cookiejar", "msgspec._json_schema", "pickle", "structlog.tracebacks", "urllib.request")
_LATER: Final = ("email.message", "idna", "mimetypes")
_ONE_AT_A_TIME: Final = RLock()
# httpx decodes nothing here, and msgspec finds all it needs in `typing`.
_ABSENT: Final = ("brotli", "brotlicffi", "typing_extensions", "zstandard")


def slim() -> None:
    """Slim all later imports of this process; `allow_rich` undoes it for terminals."""
    if not any(isinstance(finder, _SlimFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _SlimFinder())


def complete() -> None:
    """Import what is used of each package that was imported; call it before there are threads.

    While that is imported others stand in for some modules, which no other thread's imports should find.
    """
    for name, used in PACKAGES.items():
        package = sys.modules.get(name)
        if isinstance(package, _SlimPackage):
            first = next(each for names in used.values() for each in names.split())
            getattr(package, first.partition("=")[0], None)


def allow_rich() -> None:
    """Allow imports of `rich`, for a terminal."""
    for finder in sys.meta_path:
        if isinstance(finder, _SlimFinder):
            finder.without.discard("rich")


class _SlimFinder:
    def __init__(self) -> None:
        self.without = set(_WITHOUT)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in self.without:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        if fullname not in PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _SlimLoader(spec.loader)  # type: ignore[assignment]  # it is one, by its methods
        return spec


class _SlimLoader:
    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.used = False

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _SlimPackage(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Import nothing yet: see `_SlimPackage`."""


class _SlimPackage(ModuleType):
    """A package that imports the names in `PACKAGES` on first use, and runs its `__init__` for any other."""

    def __getattr__(self, name: str) -> Any:
        loader: Any = self.__spec__ and self.__spec__.loader
        if not isinstance(loader, _SlimLoader) or name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _ONE_AT_A_TIME:
            if not loader.used:
                loader.used = True
                with suppress(ImportError, AttributeError):  # another version: as without us
                    self._import_used()
            if name not in vars(self):
                self.__class__ = ModuleType  # type: ignore[assignment]
                loader.loader.exec_module(self)
        try:
            value: Any = vars(self)[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None
        return value

    def _import_used(self) -> None:
        with _stand_ins():
            for own, names in PACKAGES[self.__name__].items():
                module = import_module(f"{self.__name__}.{own}")
                for each in names.split():
                    name, _, there = each.partition("=")
                    setattr(self, name, getattr(module, there or name))


class _Empty(ModuleType):
    """A module whose every name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Later(ModuleType):
    """A module that is imported on first use."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(import_module(self.__name__), name)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Meanwhile make modules that are slow to import empty, lazy, or absent."""
    kinds = dict.fromkeys(_EMPTY, _Empty) | dict.fromkeys(_LATER, _Later)
    put = {name: kind(name) for name, kind in kinds.items() if name not in sys.modules}
    absent = [name for name in _ABSENT if name not in sys.modules]
    for name, module in put.items():
        sys.modules[name] = module
        package, _, own = name.rpartition(".")
        if package in sys.modules or package in {"email", "http", "urllib"}:
            setattr(import_module(package), own, module)
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in (*put, *absent):
            del sys.modules[name]
