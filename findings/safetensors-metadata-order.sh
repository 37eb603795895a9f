#!/usr/bin/env bash
# One would expect: the same tensors and the same metadata give the same file; the format is made to be hashed.
# What happens: with two or more keys in `metadata`, safetensors writes them in an order that changes from call to
#   call, within one process, too: same size, another SHA-256. Without metadata, or with one key, the bytes agree.
# Version: PyPI safetensors 0.8.0.
# Why it matters: a library that knows a model or an embedding by its hash stores it again and again, and "has it
#   changed?" is always answered with yes.
# Instead: put all into one key as JSON, or hash the tensors and not the file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6

"$work/venv/bin/python" - <<'PY'
import hashlib
import importlib.metadata

import numpy
from safetensors.numpy import load, save

print(f"safetensors {importlib.metadata.version('safetensors')}; 20 times the same call:")
tensors = {"a": numpy.zeros(3, "float32"), "b": numpy.ones(3, "float32")}
keys = ("format", "model", "author", "license", "prompt", "seed")
for count in (0, 1, 2, 6):
    files = [save(tensors, metadata=dict.fromkeys(keys[:count], "x") or None) for _ in range(20)]
    hashes = {hashlib.sha256(file).hexdigest() for file in files}
    print(f"{count} keys of metadata: {len(hashes)} different file(s) of {sorted({len(file) for file in files})} bytes")
    assert (len(hashes) == 1) == (count < 2)
    assert all((load(file)["b"] == 1).all() for file in files)
PY
echo "As stated: two keys of metadata, and each save has another hash."
