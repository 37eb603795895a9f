"""The folder that holds the files under their names, and the sidecars that describe them.

Verified bytes go in; published files and sidecars come out.
"""
