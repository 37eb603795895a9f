"""How fast and how frugal floradl is, beside what people would use instead. See README.md."""
