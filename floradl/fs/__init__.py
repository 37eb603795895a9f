"""Files that survive crashes, and what floradl knows of file systems.

Descriptors, names and bytes go in; files on disk, safe names, and errors of ours come out.
"""
