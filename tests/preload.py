"""Libraries that a process is started with (LD_PRELOAD), built from C beside this file."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest


@cache
def library(name: str) -> Path:
    """Build `name`.c, once; a test that needs it is skipped where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tempfile.mkdtemp(prefix="floradl-preload-")
    atexit.register(shutil.rmtree, folder)
    path = Path(folder, f"{name}.so")
    source = Path(__file__).with_name(f"{name}.c")
    built = subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", path, source, "-ldl"], check=False)
    if built.returncode:
        pytest.skip("needs the C library's headers")
    return path
