"""Small media files by real programs, made anew wherever these are installed. See `__main__`."""
