"""Find, fetch and load the checkpoint that a model name means."""
