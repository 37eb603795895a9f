from __future__ import annotations

import subprocess
import sys

CODE = """
from floradl.slim_imports import return_what_is_freed
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
return_what_is_freed()
for _ in range(3):
    blocks = [bytes(9 << 20) for _ in range(10)]  # a size that glibc keeps once it has seen it freed
    last = bytes(9 << 20)
    del blocks
print(resident())
"""


def test_large_blocks_go_back_to_the_system_when_they_are_freed() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 45 << 20
