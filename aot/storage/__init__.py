"""Tokens files: written completely, read as data only."""
