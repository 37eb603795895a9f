"""Brings the media that FLORA techniques generate home."""

__version__ = "0.1.0"
UNSUPPORTED = "it runs on Linux and macOS; on Windows use WSL, or the container (docs/docker.md)"
