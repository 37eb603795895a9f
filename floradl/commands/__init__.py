"""What each command does; `cli` only reads arguments and hands on."""
