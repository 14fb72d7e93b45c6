"""Merging inside the vision tower, for methods that act before its last block."""
