"""Processes that download, so that no transfer waits for the daemon's interpreter lock.

A `FetchRequest` goes in, a downloaded part file comes out. Threads of one interpreter spend as much time on
its lock as on the bytes; a worker has an interpreter of its own, and does the TLS, the hashing and the
writing. It has no key, no queue and no file name: the daemon opens the part file, and publishes it.

    pool.py      chooses where to download, in this process or a worker, and divides the bandwidth among them
    process.py   one worker, seen from the daemon
    protocol.py  the channels and the messages between the two
    child.py     what runs in a worker
"""
