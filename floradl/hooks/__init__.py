"""Runs the user's programs when something happened; none of it delays a download."""
