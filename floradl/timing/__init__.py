"""When FLORA is asked about a run, and when a thing is tried again."""
