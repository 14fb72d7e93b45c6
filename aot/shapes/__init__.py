"""A small world of moving shapes: videos whose questions have known answers."""
