"""Runs the user's programs when something happened; none of it delays a download.

Events of the outbox and pauses come in; a program is run for each, and what became of that is recorded.
"""
