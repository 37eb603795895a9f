"""The life of the daemon: how it starts, tells what goes on, takes changes in, and stops."""
