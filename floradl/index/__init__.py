"""The index of a library: what its sidecars say, in a file of SQLite that may be deleted at any time.

Sidecars and the heads of media files enter; what matches a search, a run, or who made a file leaves.
"""
