"""Make a corpus of small media files with the installed programs: `python -m benchmarks.corpus DIR`.

Recipes stand in text files beside this one, in blocks: a line `## PROGRAM : COMMAND` (the command prints the
program's version and fails where it is missing), then a script that writes files into `$OUT`. `.sh` files are
for bash; the blocks of `python.txt` and `node.txt` are named by a package, whose version is asked of its own
registry's data: `--python FOLDER` is a virtual environment that has them, `--node FOLDER` one with
`node_modules`. What is missing is said. `DIR/README.txt` lists file, program and version.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

RECIPES = Path(__file__).parent
LARGEST = 300_000
_INPUTS = """
ffmpeg -nostdin -v error -y -f lavfi -i sine=440:r=16000:d=1 tone.wav
ffmpeg -nostdin -v error -y -f lavfi -i "sine=330:r=44100:d=0.3" -ac 2 wide.wav
ffmpeg -nostdin -v error -y -f lavfi -i testsrc=s=64x48 -frames:v 1 pic.png
ffmpeg -nostdin -v error -y -f lavfi -i testsrc=s=96x80,noise=alls=30:all_seed=1 -frames:v 1 photo.png
ffmpeg -nostdin -v error -y -i photo.png -q:v 5 cover.jpg
ffmpeg -nostdin -v error -y -f lavfi -i testsrc=s=96x64:r=10:d=2 -f lavfi -i sine=440:r=44100:d=2 \
  -c:v ffv1 -c:a pcm_s16le clip.mkv
for i in $(seq 60); do
  echo "Line $i of a text, with *stars*, a [link](https://flora.ai) and ümläuts."; echo
done > words.txt
"""


def blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield program, command for its version, and script of each block."""
    for block in text.split("\n## ")[1:]:
        head, _, script = block.partition("\n")
        program, _, version = head.partition(" : ")
        yield program.strip(), version.strip(), script


def commands(tool: str, folders: dict[str, str]) -> tuple[list[str], str]:
    """Return what runs a script of a recipe file, and what tells a package's version."""
    if tool == "python":
        python = str(Path(folders["python"], "bin", "python").absolute())
        return [python, "-c"], python + " -c 'import importlib.metadata as m; print(m.version(\"{}\"))'"
    if tool == "node":
        modules = Path(folders["node"]).absolute()
        version = (
            f'sed -n \'s/.*"version": "\\(.*\\)".*/\\1/p\' {modules}/node_modules/{{}}/package.json | grep .'
        )
        return ["bash", "-c", f'cat > {modules}/recipe.mjs <<< "$0"; node {modules}/recipe.mjs'], version
    return ["bash", "-uc"], "{}"


def run(command: list[str], environ: dict[str, str], folder: str, *, say: bool) -> None:
    """Run a recipe's script; what it says is shown on request, its failures cost its own files alone."""
    try:
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, timeout=900, check=False)
    except subprocess.TimeoutExpired:
        print("  a recipe took too long", file=sys.stderr)
        return
    if say and (done.returncode or done.stderr):
        print(f"  exit {done.returncode}: {done.stderr.decode(errors='replace')[-1500:]}", file=sys.stderr)


def make(out: Path, folders: dict[str, str], only: str, *, say: bool) -> dict[str, str]:
    """Make the corpus; returns program and version by file name."""
    made: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as inputs:
        subprocess.run(["bash", "-ec", _INPUTS], cwd=inputs, check=True)
        names = {"TONE": "tone.wav", "WIDE": "wide.wav", "PIC": "pic.png", "PHOTO": "photo.png"}
        names |= {"COVER": "cover.jpg", "CLIP": "clip.mkv", "WORDS": "words.txt"}
        environ = os.environ | {key: f"{inputs}/{name}" for key, name in names.items()} | {"OUT": str(out)}
        for path in sorted(RECIPES.glob("*.sh")) + sorted(RECIPES.glob("*.txt")):
            tool = path.stem
            if tool in {"python", "node"} and not folders[tool]:
                print(f"{tool}: no folder given, its packages are left out", file=sys.stderr)
                continue
            command, version = commands(tool, folders)
            for program, how, script in blocks("\n" + path.read_text()):
                if only not in f"{tool} {program}":
                    continue
                asked = ["bash", "-o", "pipefail", "-c", version.format(how or program)]
                found = subprocess.run(asked, capture_output=True, text=True, check=False)
                said = (found.stdout.strip().splitlines() or [""])[0]
                if found.returncode not in {0, 1, 141} or not said:
                    print(f"{program} is missing", file=sys.stderr)
                    continue
                before = set(out.iterdir())
                with tempfile.TemporaryDirectory() as scratch:
                    run([*command, script], environ, scratch, say=say)
                new = sorted(set(out.iterdir()) - before)
                for file in new:
                    if not file.is_file() or not 0 < file.stat().st_size <= LARGEST:
                        file.unlink()
                        continue
                    made[file.name] = f"{program}  {said}"
                print(f"{tool} {program}: {len(new)} files", file=sys.stderr, flush=True)
    return made


def main() -> None:
    """Make what is asked for and list it."""
    parser = argparse.ArgumentParser(prog="benchmarks.corpus", description=__doc__)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--python", default="", help="virtual environment with the packages of python.txt")
    parser.add_argument("--node", default="", help="folder with node_modules of node.txt")
    parser.add_argument("--only", default="", help="blocks alone whose file and program hold this")
    parser.add_argument("--verbose", action="store_true", help="show what failing recipes say")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    folders = {"python": options.python, "node": options.node}
    made = make(options.dir.absolute(), folders, options.only, say=options.verbose)
    listing = options.dir / "README.txt"
    old = listing.read_text().splitlines() if listing.exists() else []
    lines = {
        name: line for line in old if (name := line.partition("  ")[0]) and (options.dir / name).exists()
    }
    lines |= {name: f"{name}  {program}" for name, program in made.items()}
    listing.write_text("\n".join(lines[name] for name in sorted(lines)) + "\n")
    print(f"{len(lines)} files")


if __name__ == "__main__":
    main()
