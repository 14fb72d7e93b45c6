"""Vision: from frames to visual tokens and their saliency."""
