"""The durable queue: what must survive a restart, and the heartbeat file that `status` reads.

Runs, outputs and hook events go in; after a restart the same come out.
"""
