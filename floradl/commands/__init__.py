"""What each command does, apart from reading its command line (`floradl.cli`).

The arguments and the configuration come in; lines on the standard streams and an exit code go out.
"""
