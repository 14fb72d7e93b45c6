"""Generate videos of moving shapes, and questions about them with known answers."""
