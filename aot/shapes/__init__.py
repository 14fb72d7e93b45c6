"""Draw a small world of moving shapes: videos with questions whose answers are known."""
