"""Merge tokens inside the vision tower, for methods that act before the tower's last block."""
