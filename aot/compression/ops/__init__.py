"""Provide the mathematics that several methods share, as functions of tensors.

This package uses no model, no file and no settings object.
"""
