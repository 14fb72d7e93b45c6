"""Encode frames to visual tokens, with the saliency and keys of each token."""
