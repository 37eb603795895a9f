"""Room that changes while it is used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from floradl.net.pool import ResizableSemaphore


def test_there_is_no_room_beyond_the_most() -> None:
    room = ResizableSemaphore(2)
    assert [room.acquire(0) for _ in range(3)] == [True, True, False]
    room.release()
    assert room.acquire(0)


def test_more_room_lets_those_in_who_wait() -> None:
    room = ResizableSemaphore(1)
    room.acquire(0)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(room.acquire, 20) for _ in range(2)]
        room.change(3)
        assert all(each.result(20) for each in waiting)


def test_less_room_drives_nobody_out_and_lets_nobody_in() -> None:
    room = ResizableSemaphore(3)
    for _ in range(3):
        room.acquire(0)
    room.change(1)
    room.release()
    room.release()
    assert not room.acquire(0)
    room.release()
    assert room.acquire(0)
