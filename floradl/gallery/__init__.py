"""The gallery: a page over the whole library, which changes nothing.

HTTP requests of people's browsers enter; the page, pictures of the index, files and live news leave.
"""
