"""A hook's process: its time, its output, and what it leaves behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryFile

import anyio
import pytest
from studio import wait_until

from floradl.hooks.command import Command, Ended, NotStartedError, environment_of, missing, run

pytestmark = pytest.mark.anyio
PATH = {"PATH": os.environ["PATH"]}


async def sh(
    script: str, *arguments: str, seconds: float = 20, hurry: anyio.Event | None = None, given: bytes = b""
) -> Ended:
    with TemporaryFile() as stdin:
        stdin.write(given)
        stdin.seek(0)
        command = Command(("sh", "-c", script, "sh", *arguments), PATH, "/", seconds)
        return await run(command, stdin.fileno(), hurry or anyio.Event())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pid_in(file: Path) -> int:
    text: str = wait_until(lambda: file.exists() and file.read_text().strip())
    return int(text)


async def test_arguments_and_input_arrive_as_they_are() -> None:
    ended = await sh('printf "%s|" "$@"; cat', "a b", "$HOME", "*", given=b"words")
    assert (ended.code, ended.output, ended.trouble) == (0, "a b|$HOME|*|words", None)


async def test_a_large_input_that_nobody_reads_is_no_trouble() -> None:
    assert (await sh("exit 0", given=bytes(5 << 20))).trouble is None


async def test_an_exit_code_and_a_signal_are_told() -> None:
    assert (await sh("exit 3")).trouble == "it ended with exit code 3"
    assert "signal 15" in str((await sh("kill $$")).trouble)


async def test_output_and_errors_come_back_the_last_lines_of_them() -> None:
    ended = await sh("seq 100000; echo oops >&2")
    assert ended.output == "\n".join([*map(str, range(99_992, 100_001)), "oops"])


async def test_one_that_writes_without_end_is_ended_in_time_and_costs_no_memory() -> None:
    ended = await sh("while :; do echo line; done", seconds=1)
    assert not ended.in_time
    assert len(ended.output) <= 4096


async def test_one_that_takes_too_long_is_ended_and_may_clear_up(tmp_path: Path) -> None:
    script = 'trap "echo cleared; exit 1" TERM; echo $$ >"$1"; sleep 100 & wait'
    ended = await sh(script, str(tmp_path / "pid"), seconds=1)
    assert ended.output == "cleared"
    assert "hooks.timeout" in str(ended.trouble)


async def test_one_that_will_not_end_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    script = 'trap "" TERM; sh -c "echo \\$\\$ >\\"$1\\"; sleep 100" & wait; wait'
    ended = await sh(script, str(tmp_path / "pid"), seconds=1)
    assert not ended.in_time
    wait_until(lambda: not is_alive(pid_in(tmp_path / "pid")))


async def test_what_it_leaves_in_the_background_ends_with_it(tmp_path: Path) -> None:
    ended = await sh('sleep 100 & echo $! >"$1"', str(tmp_path / "pid"))
    assert ended.trouble is None
    wait_until(lambda: not is_alive(pid_in(tmp_path / "pid")))


async def test_one_that_got_away_is_not_waited_for(tmp_path: Path) -> None:
    ended = await sh(
        'setsid sh -c "echo \\$\\$ >\\"$1\\"; exec sleep 100" & sleep 0.3', str(tmp_path / "pid")
    )
    assert ended.trouble is None  # although the pipe is still open
    os.kill(pid_in(tmp_path / "pid"), signal.SIGKILL)


async def test_in_a_hurry_it_has_a_few_seconds_left() -> None:
    hurry = anyio.Event()
    hurry.set()
    short = await sh("sleep 0.5; echo done", hurry=hurry, seconds=100)
    assert (short.trouble, short.output) == (None, "done")
    long = await sh("sleep 1000", hurry=hurry, seconds=1000)
    assert not long.in_time


async def test_who_is_cancelled_kills_it_at_once(tmp_path: Path) -> None:
    with anyio.move_on_after(20) as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(
                sh, 'echo $$ >"$1"; trap "" TERM; while :; do sleep 1; done', str(tmp_path / "pid")
            )
            await anyio.to_thread.run_sync(pid_in, tmp_path / "pid")
            group.cancel_scope.cancel()
    assert not scope.cancelled_caught
    assert not is_alive(pid_in(tmp_path / "pid"))


async def test_it_has_no_terminal_and_is_no_part_of_our_group() -> None:
    ended = await sh("ps -o pgid= -p $$; echo $$; (: </dev/tty) 2>/dev/null && echo terminal; exit 0")
    group, pid = ended.output.split()
    assert group == pid


async def test_no_open_file_of_ours_is_passed_on() -> None:
    with TemporaryFile() as held:
        os.set_inheritable(held.fileno(), True)
        assert (await sh("ls /proc/self/fd | wc -l")).output == "4"  # three, and the folder that is listed


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _: None, "there is no"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_text("#!/bin/sh\n"), "chmod +x"),
    ],
)
async def test_a_program_that_cannot_be_run_is_told_in_words(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    make(tmp_path / "hook")
    assert said in str(missing([str(tmp_path / "hook")], PATH))
    with TemporaryFile() as stdin, pytest.raises(NotStartedError, match="hook"):
        await run(Command([str(tmp_path / "hook")], PATH, "/", 1), stdin.fileno(), anyio.Event())


async def test_a_script_without_a_first_line_that_names_its_language_is_told_so(tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text("exit 0\n")
    hook.chmod(0o755)
    assert missing([str(hook)], PATH) is None
    with TemporaryFile() as stdin, pytest.raises(NotStartedError, match="#!"):
        await run(Command([str(hook)], PATH, "/", 1), stdin.fileno(), anyio.Event())


async def test_a_name_alone_is_looked_for_in_path() -> None:
    assert missing(["sh"], PATH) is None
    assert "in PATH" in str(missing(["no-such-program-of-ours"], PATH))


def passed(environ: Mapping[str, str]) -> set[str]:
    return set(environment_of("paused", environ)) - {"PATH", "FLORADL_EVENT"}


async def test_only_what_is_known_to_be_harmless_is_passed_on() -> None:
    secret = {"FLORA_API_KEY": "sk_live_x", "AWS_SECRET": "x", "CREDENTIALS_DIRECTORY": "/run", "FOO": "1"}
    service = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "1", "FLORADL_API__KEY_FILE": "/k"}
    assert passed({**secret, **service, "HOME": "/h", "TZ": "UTC", "LC_ALL": "C"}) == {"HOME", "TZ", "LC_ALL"}


async def test_a_proxy_is_passed_on_unless_it_holds_a_password() -> None:
    environ = {"HTTPS_PROXY": "http://proxy:3128", "http_proxy": "http://me:word@proxy:3128"}
    assert passed(environ) == {"HTTPS_PROXY"}


async def test_the_event_is_named() -> None:
    assert environment_of("run_finished", {}) == {"PATH": os.defpath, "FLORADL_EVENT": "run_finished"}
