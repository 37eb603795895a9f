from __future__ import annotations

import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
from studio import Home

from floradl import slim_imports
from floradl.simulator import OutputSpec, Simulator

PICTURES = [OutputSpec(f"picture{number}", "imageUrl", size=200_000) for number in range(4)]
SOURCES = Path(slim_imports.__file__).parent
MODULES = """
import sys
from floradl.cli import main
try:
    main()
finally:
    print("modules", *(name for name, module in sys.modules.items() if module is not None))
"""


def script(home: Home, code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=home.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", ["get", "once"])
def test_a_short_command_imports_at_most_400_modules(home: Home, simulator: Simulator, command: str) -> None:
    run = str(simulator.add_run("run_a", outputs=PICTURES, duration=0))
    if command == "once":
        home.drop(run)
    said = script(home, MODULES, command, *([run] if command == "get" else []))
    modules = said.rpartition("modules ")[2].split()
    assert len(home.files()) == 4
    assert {"asyncio", "floradl.app", "httpx._models"} <= set(modules)
    assert len(modules) <= 400
    assert not [name for name in modules if name.startswith(("rich", "pygments", "watchfiles", "email."))]


@pytest.mark.parametrize("package", slim_imports.PACKAGES)
def test_what_is_used_of_a_slim_package_comes_without_its_init(package: str) -> None:
    sources = "".join(file.read_text() for file in SOURCES.rglob("*.py"))
    used = set(re.findall(rf"(?<![\w.\"`/]){package}\.([A-Za-z]\w*)", sources))
    for names in re.findall(rf"^ *from {package} import (.+?)(?:  #.*)?$", sources, re.MULTILINE):
        used |= set(names.split(", "))
    listed = slim_imports.PACKAGES[package]
    known = {word.partition("=")[0] for words in listed.values() for word in words.split()}
    known |= {module for module, words in listed.items() if not words}
    assert used - known == set()


def test_a_name_that_nobody_listed_is_there_all_the_same(home: Home) -> None:
    code = (
        "from floradl.slim_imports import slim; slim()\n"
        "import httpcore, httpx, msgspec\n"
        "assert httpx.Limits(), httpx.URL\n"
        "assert httpcore.ConnectionPool and msgspec.yaml and not hasattr(httpx, 'nothing')\n"
    )
    script(home, code)


def test_a_name_in_another_script_is_encoded(home: Home) -> None:
    code = (
        "from floradl.slim_imports import slim; slim()\n"
        "import httpx; print(httpx.URL('https://b\\u00fccher.example/').raw_host.decode())"
    )
    assert script(home, code) == "xn--bcher-kva.example\n"


def test_a_library_that_imports_urllib_later_gets_the_real_one(home: Home) -> None:
    code = (
        "from floradl.slim_imports import slim; slim()\n"
        "import httpx; httpx.Response\n"
        "import email.message, http.cookiejar, pickle, urllib.request\n"
        "email.message.Message(); http.cookiejar.CookieJar(); pickle.dumps(urllib.request.Request('http://a/'))"
    )
    script(home, code)


def test_a_package_that_several_threads_use_first_is_imported_in_part_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "slow_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('all of it is imported')\n")
    (package / "part.py").write_text("import sys\nsys.at_part()\nvalue = 7\n")
    begun, go_on = threading.Event(), threading.Event()

    def at_part() -> None:
        begun.set()
        assert go_on.wait(30)

    monkeypatch.setattr(sys, "at_part", at_part, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "meta_path", [slim_imports._SlimFinder(), *sys.meta_path])
    monkeypatch.setattr(slim_imports, "PACKAGES", {"slow_package": {"part": "value"}})
    with ThreadPoolExecutor(4) as threads:
        module = import_module("slow_package")
        found = [threads.submit(getattr, module, "value") for _ in range(4)]
        assert begun.wait(30)
        go_on.set()
        assert [each.result(30) for each in found] == [7] * 4
    for name in ("slow_package", "slow_package.part"):
        sys.modules.pop(name, None)
