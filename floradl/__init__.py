"""Brings the media that FLORA techniques generate home."""

__version__ = "0.1.0"
