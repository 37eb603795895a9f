"""Files that survive crashes, safe names, and what each file system can do.

Open folders, names and bytes come in; files on disk, or errors of ours, go out.
"""
