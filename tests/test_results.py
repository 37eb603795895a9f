"""What `get` and `once` write to standard output for other programs, and say to people at the end."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from studio import Home, queue

from floradl.simulator import OutputSpec, Simulator

TWO = (OutputSpec("a", "imageUrl", size=3000), OutputSpec("words", "text"))


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_get_json_prints_each_run_as_its_sidecar_with_full_paths(home: Home, simulator: Simulator) -> None:
    runs = [str(simulator.add_run(f"run_{name}", outputs=TWO, duration=0)) for name in "abc"]
    done = home.run("get", "--json", *runs)
    assert done.returncode == 0, done.stderr
    found = {line["reference"]: line for line in lines(done)}
    assert found.keys() == set(runs)
    for reference, line in found.items():
        files = line.pop("files")
        assert line.pop("missing") == []
        assert line == home.sidecar(reference)
        assert files == [str(home.library / output["path"]) for output in line["outputs"]]
        assert all(Path(file).is_file() for file in files)


def test_get_json_prints_a_run_that_was_there_already(home: Home, simulator: Simulator) -> None:
    run = str(simulator.add_run("run_a", outputs=TWO, duration=0))
    first = home.run("get", "--json", run)
    assert lines(home.run("get", "--json", run)) == lines(first)


def test_get_json_prints_a_failed_run_with_its_error(home: Home, simulator: Simulator) -> None:
    run = str(simulator.add_run("run_a", duration=0, fail=("safety_blocked", "It was refused.")))
    done = home.run("get", "--json", run)
    assert done.returncode == 3
    (line,) = lines(done)
    assert (line["result"], line["error"]["code"], line["files"]) == ("failed", "safety_blocked", [])


def test_once_print_path_prints_the_files_alone(home: Home, simulator: Simulator) -> None:
    queue(home, simulator, "run_a", "run_b", outputs=TWO)
    done = home.run("once", "--print", "path")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {str(home.library / path) for path in home.files()}


def test_json_and_print_together_are_a_usage_error(home: Home) -> None:
    done = home.run("get", "--json", "--print", "path", "run_a")
    assert done.returncode == 2
    assert "give one of them" in done.stderr


def test_a_reader_that_goes_away_ends_no_download(home: Home, simulator: Simulator) -> None:
    runs = [str(simulator.add_run(f"run_{number}", outputs=TWO, duration=0.3)) for number in range(20)]
    with subprocess.Popen(
        home.command("get", "--json", *runs), env=home.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 0
    assert len(home.files()) == 40


def test_a_full_disk_below_standard_output_is_exit_5(home: Home, simulator: Simulator) -> None:
    run = str(simulator.add_run("run_a", outputs=TWO, duration=0))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            home.command("get", "--json", run),
            env=home.environ,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 5
    assert "standard output cannot be written" in done.stderr
    assert home.sidecar(run)


def test_get_and_once_end_with_the_librarys_folder(home: Home, simulator: Simulator) -> None:
    queue(home, simulator, "run_a")
    assert home.run("once").stderr.splitlines()[-1] == f"library: {home.library}"
    again = home.run("get", "campaign/run_a")
    assert again.stderr.splitlines()[-1] == f"library: {home.library}"
    assert again.stdout == ""


def test_once_with_nothing_to_do_says_so(home: Home) -> None:
    done = home.run("once")
    assert done.returncode == 0
    assert "nothing to do: no run is queued" in done.stderr
    assert home.run("once", "-q").stderr == ""


def test_a_refused_key_has_no_next_try_in_get(home: Home, simulator: Simulator) -> None:
    run = str(simulator.add_run("run_a", duration=0))
    done = home.run("get", run, FLORA_API_KEY="sk_test_not_this_one")
    assert done.returncode == 4
    assert "next try" not in done.stderr
    assert "put a valid one in place" in done.stderr
    assert "library:" not in done.stderr
