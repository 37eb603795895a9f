"""`floradl check`: whether everything is ready, and how to fix what is not. Defines one line of its report.

Configuration and environment come in; lines, or one JSON object, and an exit code go out.
"""

from enum import StrEnum

from msgspec import Struct


class CheckLevel(StrEnum):
    """The severity of a result; the values are what its line starts with."""

    OK = "ok"
    WARN = "warn"  # it works, but not as well as it could
    FAIL = "FAIL"


class CheckResult(Struct, frozen=True):
    """One line: what was checked, what was found, and how to fix it."""

    level: CheckLevel
    name: str
    message: str
    remedy: str | None = None

    def __str__(self) -> str:
        advice = f" -> {self.remedy}" if self.remedy else ""
        return f"{self.level:<4}  {self.name}: {self.message}{advice}"


def ok(name: str, message: str) -> CheckResult:
    """Return a result that is as it should be."""
    return CheckResult(CheckLevel.OK, name, message)


def warn(name: str, message: str, remedy: str | None = None) -> CheckResult:
    """Return a result that floradl works with, but not as well as it could."""
    return CheckResult(CheckLevel.WARN, name, message, remedy)


def fail(name: str, message: str, remedy: str | None = None) -> CheckResult:
    """Return a result that keeps floradl from its work. Without `remedy`, the message says how to fix it."""
    return CheckResult(CheckLevel.FAIL, name, message, remedy)
