"""One URL becomes one complete file, as far as that can be proved.

A URL and a sink come in; a verified part file, its checksums and its file type go out.
"""
