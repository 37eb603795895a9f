"""`floradl check`: whether everything is ready, and how to fix what is not."""
