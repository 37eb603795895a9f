"""The programs that the peers and the server are. Nothing is installed; what is missing is named."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct

PEERS = Path(__file__).parent / "peers"
VENV = PEERS / "venv"
"""The virtual environment of the peers that are written in Python."""
LIBRARY = "@flora-ai/flora"
_PIP = "python3 -m venv benchmarks/peers/venv && benchmarks/peers/venv/bin/pip install {}"
_MODULE_FOLDERS = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_HOW: Mapping[str, str] = {
    "aria2c": "apt-get install aria2",
    "curl": "apt-get install curl",
    "nginx": "apt-get install nginx",
    "nginx-echo": "apt-get install libnginx-mod-http-echo",
    "openssl": "apt-get install openssl",
    "node": "apt-get install nodejs npm",
    "rclone": "apt-get install rclone",
    "wget2": "apt-get install wget2",
    "initdb": "apt-get install postgresql",
    "pg_ctl": "apt-get install postgresql",
    **{name: _PIP.format(name) for name in ("gallery-dl", "yt-dlp", "huggingface_hub")},
    LIBRARY: "npm install --prefix benchmarks/peers --no-save @flora-ai/flora@0.11.0",
}


class Tools(Struct, frozen=True):
    """Where each tool is, by its name in `_HOW`; those that are missing are not in it."""

    found: Mapping[str, str]

    def path(self, name: str) -> str:
        """Return where a tool is. Raises `KeyError` for one that is missing."""
        return self.found[name]

    def missing(self, names: Iterable[str]) -> list[str]:
        """Say of each of `names` that is missing how to get it."""
        return [f"{name} is missing ({_HOW[name]})" for name in names if name not in self.found]


def look() -> Tools:
    """Find the tools of this machine."""
    # A user's PATH may lack the folder of servers.
    search = f"{VENV / 'bin'}:{os.environ.get('PATH', '')}:{_SBIN}"
    search += "".join(f":{folder}" for folder in Path("/usr/lib/postgresql").glob("*/bin"))
    found = {name: path for name in _HOW if (path := shutil.which(name, path=search))}
    modules = (Path(folder) / "ngx_http_echo_module.so" for folder in _MODULE_FOLDERS)
    if module := next((path for path in modules if path.exists()), None):
        found["nginx-echo"] = str(module)
    if any(VENV.glob("lib/python3*/site-packages/huggingface_hub/__init__.py")):
        found["huggingface_hub"] = str(VENV)
    if "node" in found and _node_has_library(found["node"]):
        found[LIBRARY] = str(PEERS)
    return Tools(found)


def versions(tools: Tools) -> list[str]:
    """Return the versions of the tools that are here, as `name version`."""
    said = []
    for name, flag in (
        ("nginx", "-v"),
        ("aria2c", "-v"),
        ("curl", "-V"),
        ("openssl", "version"),
        ("node", "-v"),
        ("rclone", "version"),
        ("wget2", "--version"),
        ("gallery-dl", "--version"),
        ("yt-dlp", "--version"),
    ):
        if name not in tools.found:
            continue
        done = subprocess.run([tools.path(name), flag], capture_output=True, text=True, check=False)
        number = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
        said.append(f"{name} {number[0] if number else '?'}")
    hub = next(VENV.glob("lib/python3*/site-packages/huggingface_hub-*.dist-info"), None)
    if hub is not None:
        said.append(f"huggingface_hub {hub.name.removesuffix('.dist-info').partition('-')[2]}")
    if LIBRARY in tools.found:
        said.append(f"{LIBRARY} {_library_version(tools.path('node'))}")
    return said


def _node_has_library(node: str) -> bool:
    return _node(node, f"require.resolve('{LIBRARY}')").returncode == 0


def _library_version(node: str) -> str:
    done = _node(node, f"console.log(require('{LIBRARY}/version').VERSION)")
    return done.stdout.strip() or "?"


def _node(node: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as if it stood in `peers`; NODE_PATH is honoured."""
    return subprocess.run(
        [node, "-e", script], cwd=PEERS, capture_output=True, text=True, timeout=30, check=False
    )
