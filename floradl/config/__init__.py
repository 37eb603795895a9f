"""What the user wants: the YAML file, the environment and the key.

A file, variables and options come in; one frozen, checked `Config` goes out, and secrets that never show.
"""
