"""Where we may connect, and the HTTP clients that keep to it."""
