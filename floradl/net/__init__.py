"""HTTP and sockets: clients for media and for the API that connect only where their URL policy allows.

Requests, settings and proxies of the environment come in; answers and bodies, or errors of ours, go out.
"""
