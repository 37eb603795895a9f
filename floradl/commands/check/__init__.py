"""`floradl check`: whether everything is ready, and how to fix what is not; here what one line of it holds.

Configuration and environment come in; lines, or one JSON object, and an exit code go out.
"""

from enum import StrEnum

from msgspec import Struct


class CheckLevel(StrEnum):
    """How bad it is. The values are what a line starts with."""

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
    """Report that all is well."""
    return CheckResult(CheckLevel.OK, name, message)


def warn(name: str, message: str, remedy: str | None = None) -> CheckResult:
    """Report what could be better."""
    return CheckResult(CheckLevel.WARN, name, message, remedy)


def fail(name: str, message: str, remedy: str | None = None) -> CheckResult:
    """Report what keeps floradl from its work. Without `remedy`, the message says how to fix it."""
    return CheckResult(CheckLevel.FAIL, name, message, remedy)
