"""Runs the user's programs for finished runs and for pauses; none of it delays a download.

Events of the outbox and pauses come in; a program runs for each, and its result is recorded.
"""
