"""The settings, from the YAML file, the environment and options, and the API key.

Their texts come in; one frozen, checked `Config` goes out, and secrets that never show.
"""
