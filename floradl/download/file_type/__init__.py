"""What a download is: its first bytes and its content type go in, an extension or a refusal comes out."""
