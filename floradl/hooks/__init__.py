"""Programs of the user's, run when something happened. None of it is in the way of a download."""
