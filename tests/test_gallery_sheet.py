"""`floradl sheet`: one file that shows the last outputs, needs nothing else and runs nothing."""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path

import pytest
from galleries import Shelf, picture
from studio import Home

TODAY = time.strftime("%Y-%m-%d", time.gmtime())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def shelf(home: Home) -> Shelf:
    home.state.mkdir()
    shelf = Shelf(home.library)
    shelf.put("run_new", {"data": picture(900, 600)}, day=TODAY, technique="camera", label="Spring")
    shelf.put("run_text", {"kind": "text", "data": b"A lighthouse.", "text": "A lighthouse."}, day=TODAY)
    shelf.put("run_old", day="2020-01-01")
    return shelf


def sheet(home: Home, *arguments: str) -> str:
    file = home.path / "sheet.html"
    done = home.run("sheet", "-o", str(file), *arguments)
    assert done.returncode == 0, done.stderr
    return file.read_text()


def test_a_sheet_has_the_last_weeks_tiles_with_pictures_and_names(home: Home, shelf: Shelf) -> None:
    page = sheet(home)
    assert set(re.findall("run_[a-z]+(?=</span>)", page)) == {"run_new", "run_text"}
    assert "run_old" not in page
    (data,) = re.findall(r"base64,([^\"]+)", page)
    assert base64.b64decode(data).startswith(b"RIFF")
    assert (shelf.root / "images/run_new-1.png").as_uri() in page
    assert "Spring" in page
    assert "A lighthouse." in page
    assert "run_old" in sheet(home, "--since", "2019-01-01")


def test_a_sheet_loads_and_runs_nothing_whatever_names_and_texts_hold(home: Home, shelf: Shelf) -> None:
    evil = "</span><script>alert(1)</script><img src='https://evil.example/x' onerror=alert(1)>\""
    shelf.put(
        "run_evil", {"kind": "text", "data": b"t", "text": evil}, day=TODAY, label=evil, technique_name=evil
    )
    page = sheet(home)
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "<img src" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(?:src|href)=\"https?:", page)


def test_a_sheet_that_cannot_be_written_is_said_with_its_place(home: Home, shelf: Shelf) -> None:  # noqa: ARG001
    done = home.run("sheet", "-o", str(home.path / "none" / "sheet.html"))
    assert done.returncode == 2
    assert "none/sheet.html cannot be written" in done.stderr
