#!/usr/bin/env bash
# One would expect: an object store has no half objects, so an upload that ends by an exception leaves nothing, as a
#   multipart upload that is never completed does. What happens: opendal's `with operator.open(path, "wb")` completes
#   the upload on the way out, whatever the reason: after an exception the object stands under its final name, with
#   what had been written until then. A writer that is dropped without `close()` leaves nothing.
# Version: PyPI opendal 0.47.12.
# Why it matters: a download that breaks off inside the `with` is published cut short, and looks whole to whoever
#   lists the bucket. The same holds for a cancelled task.
# Instead: no `with`; call `close()` by hand, as the last step, when all has been checked.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check opendal==0.47.12

"$work/venv/bin/python" - "$work" <<'PY'
import gc
import importlib.metadata
import sys
from pathlib import Path

import opendal

folder = Path(sys.argv[1], "objects")
folder.mkdir()
print(f"opendal {importlib.metadata.version('opendal')}")
for service, options in (("memory", {}), ("fs", {"root": str(folder)})):
    operator = opendal.Operator(service, **options)
    try:
        with operator.open("cut.bin", "wb") as file:
            file.write(b"half of it")
            raise ConnectionError("the source broke off")
    except ConnectionError:
        pass
    dropped = operator.open("dropped.bin", "wb")
    dropped.write(b"half of it")
    del dropped
    gc.collect()
    found = {name: operator.exists(name) for name in ("cut.bin", "dropped.bin")}
    print(f"{service}: after an exception in `with` the object is there: {found['cut.bin']}; "
          f"of a writer that was dropped: {found['dropped.bin']}")
    assert found["cut.bin"], "an exception keeps it from being published now"
    assert bytes(operator.read("cut.bin")) == b"half of it"
    assert not found["dropped.bin"], "a dropped writer publishes now"
PY
echo "As stated: leaving the with by an exception publishes what had been written."
