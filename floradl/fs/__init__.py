"""Files that survive crashes, safe names, mounts and permissions: what floradl knows of file systems."""
