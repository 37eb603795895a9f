"""The life of the daemon: startup, recovery, reload, heartbeat, stop.

The configuration goes in, an exit code comes out.
"""
