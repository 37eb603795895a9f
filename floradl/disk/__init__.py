"""Names, files and mounts: what floradl knows of file systems."""
