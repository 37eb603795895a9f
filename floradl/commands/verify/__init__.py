"""`floradl verify`: whether the library still holds what its sidecars say.

What to look at comes in; each problem, what a repair made of it, and an exit code go out.
"""
