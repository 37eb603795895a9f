"""What comes in: job files, the queue file, and what is handed in by commands."""
