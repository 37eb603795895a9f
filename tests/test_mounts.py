from __future__ import annotations

from pathlib import Path

import pytest

from floradl.fs import mounts
from floradl.fs.mounts import filesystem, find_filesystem, find_unmounted, is_shared, tells_writers

TABLE = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
30 22 0:30 / /mnt/nas rw,relatime shared:5 master:1 - nfs4 nas:/x rw
31 30 0:31 / /mnt/nas/local rw - ext4 /dev/vdb rw
32 22 0:32 / /mnt/my\040share rw - cifs //nas/share rw
33 22 0:33 / /auto rw - autofs systemd-1 rw
34 33 0:34 / /auto rw - nfs nas:/y rw
nonsense""".splitlines()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/", "ext4"),
        ("/home/x", "ext4"),
        ("/mnt/nas", "nfs4"),
        ("/mnt/nas/a/b", "nfs4"),
        ("/mnt/nas2", "ext4"),
        ("/mnt/nas/local/a", "ext4"),
        ("/mnt/my share/in", "cifs"),
        ("/auto/in", "nfs"),
    ],
)
def test_the_deepest_and_latest_mount_counts(path: str, name: str) -> None:
    assert find_filesystem(TABLE, Path(path)) == name


def test_a_table_without_the_root_tells_nothing() -> None:
    assert find_filesystem(TABLE[2:], Path("/home")) is None


def test_this_machine_names_its_file_systems(tmp_path: Path) -> None:
    assert filesystem(Path("/proc")) == "proc"
    assert filesystem(tmp_path / "not" / "made" / "yet") == filesystem(tmp_path)


def test_a_local_folder_is_not_shared() -> None:
    assert not is_shared(Path("/proc"))


def test_links_in_a_circle_tell_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "a")
    assert not is_shared(tmp_path / "a" / "b")


FSTAB = r"""
# /dev/vdc /mnt/commented ext4 defaults 0 2
/dev/vda  /  ext4  errors=remount-ro  0  1
nas:/x    /mnt/nas          nfs4  defaults  0  0
UUID=12   /mnt/usb\040disk  exfat noauto,user
/swapfile none swap sw 0 0
half""".splitlines()


@pytest.mark.parametrize(
    ("path", "point"),
    [
        ("/mnt/usb disk", "/mnt/usb disk"),
        ("/mnt/usb disk/flora/library", "/mnt/usb disk"),
        ("/mnt/usb disk2", None),
        ("/mnt/nas/library", None),
        ("/mnt/commented", None),
        ("/home/x", None),
    ],
)
def test_a_disk_that_is_to_be_mounted_and_is_not_is_named(path: str, point: str | None) -> None:
    found = find_unmounted(FSTAB, TABLE, Path(path))
    assert (None if found is None else str(found)) == point


@pytest.mark.parametrize(
    ("kind", "tells"),
    [("ext4", True), ("tmpfs", True), ("overlay", True), ("xfs", True), ("fuse", False), ("fuseblk", False)]
    + [(f"fuse.{name}", False) for name in ("mergerfs", "bindfs", "shfs", "sshfs", "rclone")]
    + [("nfs4", False), ("cifs", False), ("aufs", False), ("of tomorrow", False)],
)
def test_a_lease_tells_of_writers_only_where_all_of_them_are_this_kernels(
    *, monkeypatch: pytest.MonkeyPatch, kind: str, tells: bool
) -> None:
    monkeypatch.setattr(mounts, "filesystem", lambda _: kind)
    assert tells_writers(Path("/x")) is tells


def test_where_no_file_system_is_told_a_lease_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "filesystem", lambda _: None)
    assert not tells_writers(Path("/x"))
