"""Provide the mathematics that several methods share: tensors in, tensors out.

Nothing here knows a model, a file or a settings object.
"""
