"""One URL becomes one file that is whole, as far as anything can tell."""
