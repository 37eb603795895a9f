"""Tells people what happened: messages to web addresses and mailboxes, bundled, and not again and again.

Events and pauses come in; messages leave, and what could not be sent yet is kept over a restart.
"""
