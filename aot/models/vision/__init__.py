"""Vision: frames to visual tokens, with their saliency and keys."""
