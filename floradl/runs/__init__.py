"""The life of a run: what is due is taken on, its outputs are saved, its result is recorded.

Rows of the queue go in; files, sidecars and finished rows come out.
"""
