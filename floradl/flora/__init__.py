"""The FLORA API, and how fast it may be asked."""
