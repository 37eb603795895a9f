"""What a hook finds in its environment: nothing that opens anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from floradl.redaction import redact

# A list of what is good: a name says too little of what a variable holds to list what is secret.
_PASSED: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    }
)


def environment_of(event: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return a hook's environment: what is harmless in `environ`, and the event's name in FLORADL_EVENT.

    A proxy with a password in its URL is left out, too.
    """
    passed = {
        name: value
        for name, value in environ.items()
        if (name in _PASSED or name.startswith("LC_")) and redact(value) == value
    }
    return {"PATH": os.defpath, **passed, "FLORADL_EVENT": event}
