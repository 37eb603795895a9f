"""Worker processes that download: a transfer in one of them does not hold this process's interpreter lock.

A `FetchRequest` goes in, a downloaded part file comes out. Sixteen threads of one interpreter spend as much
time on handing its lock round as on the bytes; a worker has an interpreter of its own, and does the TLS, the
hashing and the writing. It has no key, no queue and no name of any file: its part file is opened by the
daemon, and handed over open.

    pool.py             chooses who downloads: this process or a worker
    process.py          one worker, seen from the daemon: its process and the channels to it
    remote_download.py  one download, seen from the daemon
    protocol.py         the messages between the two
    channel.py          the sockets that they go over
    child.py            what runs in a worker
"""
