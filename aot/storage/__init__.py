"""Tokens files: written whole, read as data alone."""
