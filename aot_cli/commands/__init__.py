"""One command per file: each parses, calls the library and prints."""
