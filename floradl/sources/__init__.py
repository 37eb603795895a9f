"""Where runs come from: job files, the queue file, the commands, and the account's history.

Files and lists go in; validated `RunRequest`s come out, and become rows of the queue.
"""
