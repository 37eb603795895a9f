"""The durable queue: what must survive a restart, and the heartbeat file that `status` reads.

Requests, saved outputs and hook events go in; after a restart the same runs, outputs and events come out.
"""
