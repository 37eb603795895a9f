#!/usr/bin/env bash
# One would expect: bytes that could not be put on disk make the next fsync(2) fail, so that who flushes a file before it
#   counts as saved hears of it. What happens: where ext4 finds no blocks for bytes that it already took, it drops them and
#   tells whoever set off the writing, if anybody did. An fsync that does it itself fails. Where somebody else came first
#   (the kernel after some seconds, `sync -f`, sync_file_range, posix_fadvise), each later fsync succeeds, `sync -f` too,
#   the file has its full size, and reads as zeros. A check right after copying finds all well: it reads from memory.
# Versions: Linux 6.18.44, Debian e2fsprogs 1.47.0, coreutils 9.1. Needs root: it mounts an image, one of
#   whose maps of free blocks is broken (`errors=continue` is what mkfs sets).
# Why it matters: "written, flushed, no error" is what backup programs and databases believe, and `aria2c …; sync -f` does.
# Instead: take the error of whatever starts the writing (sync_file_range says it, posix_fadvise does not), and look for
#   holes after the flush: `lseek(fd, 0, SEEK_HOLE)` is below the size where nothing is behind some of it. On file systems
#   that keep no zeros compare the bytes then. `errors=remount-ro` makes fsync fail, too.
set -euo pipefail
work=$(mktemp -d)
trap 'umount -q -l "$work/disk" || true; rm -rf "$work"' EXIT

for tool in mkfs.ext4 dumpe2fs python3; do
    command -v "$tool" >/dev/null || { echo "this needs Debian's e2fsprogs and python3" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "this needs root" >&2; exit 2; }
uname -sr
mkfs.ext4 -V 2>&1 | sed -n 1p
sync --version | sed -n 1p
mkdir "$work/disk" "$work/from"
head -c 200000 /dev/urandom >"$work/from/picture.png"

fresh_disk() {  # of 24 MB, whose first map of free blocks is broken
    umount -q -l "$work/disk" || true
    rm -f "$work/image"
    truncate -s 24M "$work/image"
    mkfs.ext4 -q -b 4096 -O 'metadata_csum,^flex_bg' "$work/image"
    map=$(dumpe2fs "$work/image" 2>/dev/null | grep -om1 'Block bitmap at [0-9]*' | grep -o '[0-9]*$')
    dd if=/dev/urandom of="$work/image" bs=4096 seek="$map" count=1 conv=notrunc status=none
    mount -o loop,errors=continue "$work/image" "$work/disk"
}
begun_by() {  # what a call that sets off the writing says, and the fsync after it
    python3 - "$1" "$work/from/picture.png" "$work/disk/picture.png" <<'PY'
import ctypes, errno, os, sys
file = open(sys.argv[3], "wb", buffering=0)
file.write(open(sys.argv[2], "rb").read())
if sys.argv[1] == "posix_fadvise":
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    said = "ok"
else:
    call = ctypes.CDLL(None, use_errno=True).sync_file_range
    code = call(file.fileno(), ctypes.c_int64(0), ctypes.c_int64(0), 2)  # SYNC_FILE_RANGE_WRITE
    said = errno.errorcode[ctypes.get_errno()] if code else "ok"
os.fsync(file.fileno())
print(f"{said}, then fsync ok:")
PY
}
says() { "$@" >/dev/null 2>&1 && echo ok || echo fails; }
state() {  # whether the file is what was written, and where its first hole begins
    python3 - "$work/from/picture.png" "$work/disk/picture.png" <<'PY'
import os, sys
there = open(sys.argv[2], "rb")
hole, data = os.lseek(there.fileno(), 0, os.SEEK_HOLE), os.pread(there.fileno(), 1 << 20, 0)
print("equal" if data == open(sys.argv[1], "rb").read() else f"{len(data)} zeros" if not any(data) else "other", f"hole at {hole}")
PY
}

fresh_disk
first="fsync first: $(says dd if="$work/from/picture.png" of="$work/disk/picture.png" conv=fsync status=none)"
fresh_disk
cp "$work/from/picture.png" "$work/disk"
second="sync -f first: $(says sync -f "$work/disk"), then fsync $(says sync "$work/disk/picture.png"): $(state)"
for call in posix_fadvise sync_file_range; do
    fresh_disk
    second+=$'\n'"$call first: $(begun_by "$call") $(state)"
done
fresh_disk
cp "$work/from/picture.png" "$work/disk"
third="compared after cp: $(says cmp "$work/from/picture.png" "$work/disk/picture.png")"
sync -f "$work/disk"
fourth="compared once written: $(says cmp "$work/from/picture.png" "$work/disk/picture.png")"

found=$(printf '%s\n' "$first" "$second" "$third" "$fourth")
echo "$found"
[ "$found" = "$(cat <<'TEXT'
fsync first: fails
sync -f first: ok, then fsync ok: 200000 zeros hole at 0
posix_fadvise first: ok, then fsync ok: 200000 zeros hole at 0
sync_file_range first: EBADMSG, then fsync ok: 200000 zeros hole at 0
compared after cp: ok
compared once written: fails
TEXT
)" ] || { echo "it behaves otherwise now" >&2; exit 1; }
