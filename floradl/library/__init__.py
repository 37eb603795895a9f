"""The folder that holds the files under their names, and the sidecars that vouch for them."""
