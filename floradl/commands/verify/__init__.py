"""`floradl verify`: whether the library still holds what its sidecars say."""
