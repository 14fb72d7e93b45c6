"""Merging inside the vision tower: what methods need that act before its last block."""
