#!/usr/bin/env bash
# One would expect: a model keeps its size from format to format, where both state their units: glTF counts in metres
#   by its standard, 3MF names a unit in each file. What happens: trimesh copies the numbers and always writes
#   "millimeter" into 3MF. A cube of 1 m becomes one of 1 mm; one of 1 inch, read with its `units` right, becomes one
#   of 1 mm in 3MF and of 1 m in GLB.
# Version: PyPI trimesh 5.2.0.
# Why it matters: a print that is 1000 times, or 25.4 times, too small, from files that are valid and open without a word.
# Instead: set `units` yourself and call `convert_units` before the export, as the target's format has it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check trimesh==5.2.0 numpy==2.4.6 networkx==3.6.1 lxml==6.1.3

"$work/venv/bin/python" - "$work" <<'PY'
import json
import os
import re
import struct
import sys
import zipfile

import trimesh

os.chdir(sys.argv[1])
print(f"trimesh {trimesh.__version__}")


def of_3mf(name):
    model = zipfile.ZipFile(name).read("3D/3dmodel.model").decode()
    xs = [float(x) for x in re.findall(r'<vertex x="([^"]+)"', model)]
    return re.search(r'unit="(\w+)"', model)[1], max(xs) - min(xs)


def of_glb(name):
    data = open(name, "rb").read()
    head = json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])
    box = next(each for each in head["accessors"] if each["type"] == "VEC3" and "max" in each)
    return "metre", box["max"][0] - box["min"][0]


trimesh.creation.box((1, 1, 1)).export("metre.glb")
trimesh.load("metre.glb").export("from-glb.3mf")
with zipfile.ZipFile("from-glb.3mf") as source, zipfile.ZipFile("inch.3mf", "w") as target:
    for name in source.namelist():
        target.writestr(name, source.read(name).replace(b'unit="millimeter"', b'unit="inch"'))
inch = trimesh.load("inch.3mf")
inch.export("from-inch.3mf")
inch.export("from-inch.glb")
print("read: metre.glb", of_glb("metre.glb"), "and inch.3mf", of_3mf("inch.3mf"), "whose units are", inch.units)
written = {"from-glb.3mf": of_3mf("from-glb.3mf"), "from-inch.3mf": of_3mf("from-inch.3mf"), "from-inch.glb": of_glb("from-inch.glb")}
for name, (unit, size) in written.items():
    print(f"written: {name} is {size:g} {unit}")
assert inch.units == "inch"
assert written == {"from-glb.3mf": ("millimeter", 1), "from-inch.3mf": ("millimeter", 1), "from-inch.glb": ("metre", 1)}
PY
echo "As stated: the numbers are copied, the units are not."
