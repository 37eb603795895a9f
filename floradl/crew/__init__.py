"""Processes that fetch: a transfer that runs in one of them leaves this process's interpreter alone.

Sixteen threads of one interpreter spend as much time on handing its lock round as on the bytes. A worker has
its own; it does the TLS, the hashing and the writing, and nothing else. It has no key, no journal and no name
of any file: which part file it writes is opened here, and handed over open.

    crew.py       who fetches what, and when there are workers at all
    worker.py     one worker, seen from here: its process and the lines to it
    errand.py     one transfer, seen from here
    messages.py   what is said over a line
    line.py       the sockets that this goes over
    process.py    what runs in a worker
    stand_ins.py  what stands there for the slot, the part file and the cap on all transfers
"""
