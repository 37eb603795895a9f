"""The life of a run, from the first question to its last file."""
