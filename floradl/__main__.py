"""`python -m floradl`."""

from floradl.cli import main

if __name__ == "__main__":
    main()
