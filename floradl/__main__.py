"""`floradl` and `python -m floradl`: who starts it on Windows is told so before an import breaks."""

import sys
from typing import NoReturn

from floradl import UNSUPPORTED


def main() -> NoReturn:
    """Run the command line, and exit; with code 2 where it cannot run at all."""
    if sys.platform == "win32":
        sys.stderr.write(f"floradl: {UNSUPPORTED}\n")
        sys.exit(2)
    from floradl.cli import main as run  # noqa: PLC0415 - it needs what Windows lacks

    run()


if __name__ == "__main__":
    main()
