"""Where runs come from: job files, the queue file, the commands, and the account's history.

Files and lists of the API come in; validated `RunRequest`s go out, and become rows of the queue.
"""
