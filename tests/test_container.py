"""The image as it is run: by the runtime that Docker uses, with a read-only root and no rights."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from container import Container, Image, built_image
from ports import free_port
from studio import TEST_TIMEOUT, wait_until

from floradl.simulator import OutputSpec, Simulator

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.container]
Make = Callable[..., Container]


SIZE = 3_000_000
CLIP = OutputSpec("clip", "videoUrl", size=SIZE, rate=1_000_000)


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """Give the image, built from this checkout."""
    with built_image() as image:
        yield image


@pytest.fixture
def make(image: Image, tmp_path: Path, simulator: Simulator) -> Make:
    """Give what makes a container that knows a FLORA with one run."""
    simulator.add_run("run_0", technique="campaign", outputs=[CLIP], duration=0)

    def container(*, user: str | None = None, **settings: str) -> Container:
        known = {
            "FLORA_BASE_URL": simulator.base_url,
            "FLORA_API_KEY": simulator.key,
            "FLORADL_NETWORK__TRUSTED_PRIVATE_HOSTS": "127.0.0.1",
            "FLORADL_DOWNLOAD__MIN_FREE_SPACE": "0",
            "FLORADL_POLL__INTERVAL": "100ms",
        }
        return Container(image, tmp_path, user=user, **(known | settings))

    return container


def sidecar(container: Container) -> dict[str, Any] | None:
    path = container.data / "library/runs/campaign/run_0.json"
    return json.loads(path.read_bytes()) if path.exists() else None


def arrived(container: Container) -> int:
    """Return how many bytes of the clip there are in its part file."""
    return sum(path.stat().st_size for path in container.data.glob("library/videos/campaign/.*.part"))


def page(url: str) -> str | None:
    """Return what stands there, None where nobody answers yet."""
    with suppress(httpx.ConnectError):
        return httpx.get(url).raise_for_status().text
    return None


def test_the_demo_runs_inside(make: Make) -> None:
    container = make()
    assert container.finish("demo") == 0, container.said()
    assert len(list(container.data.glob("floradl-demo/library/runs/*/*.json"))) >= 12


@pytest.mark.parametrize("user", ["1000:1000", "4321:100", "4321:0"])
def test_a_job_comes_home_whoever_it_runs_as_and_the_files_are_that_users(make: Make, user: str) -> None:
    container = make(user=user)
    with container.daemon():
        container.drop("campaign/run_0")
        found = wait_until(lambda: sidecar(container))
    assert found["result"] == "complete"
    file = container.data / "library" / found["outputs"][0]["path"]
    assert file.stat().st_size == SIZE
    assert f"{file.stat().st_uid}:{file.stat().st_gid}" == user


@pytest.mark.parametrize(("umask", "mode"), [(None, 0o644), ("002", 0o664), ("077", 0o600)])
def test_files_get_the_mode_that_umask_gives(make: Make, umask: str | None, mode: int) -> None:
    container = make(**({} if umask is None else {"UMASK": umask}))
    with container.daemon():
        container.drop("campaign/run_0")
        found = wait_until(lambda: sidecar(container))
    assert (container.data / "library" / found["outputs"][0]["path"]).stat().st_mode & 0o777 == mode


def test_a_umask_that_is_none_is_refused(make: Make) -> None:
    container = make(UMASK="rwx")
    assert container.finish() == 2
    assert "UMASK" in container.said()


def test_nothing_is_written_but_to_the_two_volumes(make: Make) -> None:
    container = make()
    container.read_only = False
    with container.daemon():
        container.drop("campaign/run_0")
        wait_until(lambda: sidecar(container))
        assert container.is_healthy()
        container.execute("touch", "/tmp/written")  # so it is seen, if something is
    assert container.written() == ["tmp/written"]


def test_the_key_is_taken_from_a_secret(make: Make, simulator: Simulator, tmp_path: Path) -> None:
    (tmp_path / "flora_api_key").write_text(simulator.key)
    os.chown(tmp_path / "flora_api_key", 1000, 1000)
    container = make(FLORA_API_KEY="")
    container.mounts["/run/secrets/flora_api_key"] = tmp_path / "flora_api_key"
    with container.daemon():
        container.drop("campaign/run_0")
        assert wait_until(lambda: sidecar(container))["result"] == "complete"


def test_a_secret_that_its_user_may_not_read_is_told(make: Make, tmp_path: Path) -> None:
    (tmp_path / "flora_api_key").write_text("sk_test_planted")
    (tmp_path / "flora_api_key").chmod(0o600)
    container = make(FLORA_API_KEY="")
    container.mounts["/run/secrets/flora_api_key"] = tmp_path / "flora_api_key"
    assert container.finish() == 2
    said = container.said()
    assert "/run/secrets/flora_api_key: the API key's file cannot be read: Permission denied" in said
    assert "planted" not in said


def test_one_who_may_write_where_the_library_is_decides_nothing_that_the_container_does(make: Make) -> None:
    container = make()
    container.data.chmod(0o777)
    settings = container.data / "config.yaml"
    settings.write_text("hooks: {run_finished: [touch, /data/hooked]}\n")
    os.chown(settings, 4323, 4323)
    with container.daemon():
        container.drop("campaign/run_0")
        assert wait_until(lambda: sidecar(container))["result"] == "complete"
        assert "/data/config.yaml is not read: /etc/floradl/config.yaml" in container.said()
    assert not (container.data / "hooked").exists()


def test_settings_are_taken_from_a_mounted_folder(make: Make, tmp_path: Path) -> None:
    container = make()
    container.mounts["/etc/floradl"] = tmp_path / "etc"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/config.yaml").write_text("log: {level: nonsense}\n")
    assert container.finish() == 2
    assert "/etc/floradl/config.yaml, line 1: log.level" in container.said()


def test_a_state_folder_that_others_may_write_is_refused_unless_it_is_sticky(make: Make) -> None:
    container = make()
    container.state.chmod(0o777)
    assert container.finish() == 2
    assert "/state can be written by every user: chmod go-w /state" in container.said()
    os.chown(container.state, 0, 0)
    container.state.chmod(0o1777)  # as a new volume is, which takes the mode of the image's folder
    with container.daemon():
        pass


@pytest.mark.parametrize("folder", ["data", "state"])
def test_a_volume_that_is_somebody_elses_is_told_in_words(make: Make, folder: str) -> None:
    container = make()
    os.chown(container.path / folder, 0, 0)
    assert container.finish() == 2
    said = container.said()
    assert f"/{folder}" in said
    assert "this user (1000:1000)" in said
    assert "Traceback" not in said


def test_the_health_check_passes_while_it_works_and_fails_once_it_hangs(make: Make) -> None:
    container = make()
    with container.daemon():
        assert container.is_healthy()
        (daemon,) = container.children()
        os.kill(daemon, signal.SIGSTOP)
        wait_until(lambda: not container.is_healthy(), seconds=240)
        os.kill(daemon, signal.SIGCONT)
        wait_until(container.is_healthy)


def test_a_stop_in_mid_download_is_clean_and_the_next_start_goes_on(make: Make, simulator: Simulator) -> None:
    container = make()
    with container.daemon() as process:
        container.drop("campaign/run_0")
        wait_until(lambda: arrived(container) > SIZE / 2)
        container.stop()
        assert process.wait(TEST_TIMEOUT) == 0
    part = arrived(container)
    assert part > SIZE / 2
    with container.daemon():
        assert wait_until(lambda: sidecar(container))["result"] == "complete"
    assert [each.status for each in simulator.asked("media", "run_0")] == [200, 206]


def test_a_stop_before_anything_has_begun_is_heard(make: Make) -> None:
    container = make()
    with container.run() as process:
        wait_until(container.children)
        container.stop()
        assert process.wait(TEST_TIMEOUT) in {0, 128 + signal.SIGTERM}


def test_orphans_are_collected(make: Make) -> None:
    container = make()
    with container.daemon():
        before = container.children()
        loop = "until [ -e /data/go ]; do sleep 0.1; done"
        assert container.execute("sh", "-c", f"({loop}) >/dev/null 2>&1 & exec true").returncode == 0
        wait_until(lambda: len(container.children()) == len(before) + 1)
        (container.data / "go").touch()
        wait_until(lambda: container.children() == before)


def test_metrics_are_served_from_inside(make: Make) -> None:
    address = f"127.0.0.1:{free_port()}"
    container = make(FLORADL_METRICS__LISTEN=address)
    with container.daemon():
        answer = wait_until(lambda: page(f"http://{address}/metrics"))
    assert "# TYPE floradl_" in answer


def test_state_may_be_in_the_same_volume(make: Make) -> None:
    container = make(FLORADL_STATE_DIR="/data/state")
    del container.mounts["/state"]
    with container.daemon():
        assert container.is_healthy()
    assert (container.data / "state/lock").exists()


def test_check_finds_nothing_amiss_in_a_new_container(make: Make) -> None:
    container = make()
    code = container.finish("check")
    assert code == 0, container.said()


def test_the_gallery_in_the_container_shows_what_came_to_who_has_the_token(
    make: Make, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.add_run("run_1", technique="campaign", outputs=[OutputSpec("look", "imageUrl", size=40_000)])
    token = tmp_path / "gallery_token"
    token.write_text("a-token-that-nobody-guesses")
    os.chown(token, 1000, 1000)
    port = free_port()
    given = {
        "FLORADL_WEB__LISTEN": f"0.0.0.0:{port}",
        "FLORADL_WEB__TOKEN_FILE": "/run/secrets/gallery_token",
    }
    container = make(**given)
    container.mounts["/run/secrets/gallery_token"] = token
    own = {"Authorization": f"Bearer {token.read_text()}"}

    def get(path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{port}{path}", headers=own, timeout=60)

    def shown() -> Any:
        with suppress(httpx.TransportError):  # it comes up in a moment
            return get("/api/outputs").json()["outputs"]
        return None

    with container.daemon():
        container.drop("campaign/run_1")
        output = wait_until(shown)[0]
        assert "<title>" in get("/").text
        assert get(output["thumbnail"]).headers["content-type"] == "image/webp"
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 401
