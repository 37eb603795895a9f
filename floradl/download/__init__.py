"""One URL becomes one file that is complete, as far as anything can prove.

A URL and a sink go in; a verified part file and what is known of it come out.
"""
