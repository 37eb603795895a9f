"""What the user wants: the YAML file, the environment and the key."""
