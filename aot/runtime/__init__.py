"""Utilities for memory, stage times, devices, paths and files."""
