"""The client of the FLORA API, and how many requests it may send.

A question goes in; a decoded answer or one of our errors comes out.
"""
