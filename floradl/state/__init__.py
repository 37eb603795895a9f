"""What must survive a restart: the journal; and what is going on right now."""
