"""The client of the FLORA API, and how many requests it may send.

References and cursors go in; decoded runs and pages, or errors of ours, come out. `technique_names` remembers
what techniques are called, and adds it to answers.
"""
