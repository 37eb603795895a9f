"""The queue on PostgreSQL, which daemons of many machines share.

A server's address comes in; a `RunQueue` and its `RunSharing` go out. Nothing else knows SQL of PostgreSQL.
"""
