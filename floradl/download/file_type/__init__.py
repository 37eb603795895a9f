"""What a download is.

Its first bytes, its content type and its names go in. An extension comes out, or an error that it is none of
what was asked for.
"""
