"""What each command does.

Arguments that `cli` has read come in; lines on the standard streams and an exit code go out.
"""
