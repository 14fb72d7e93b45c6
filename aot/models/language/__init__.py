"""Generate an answer from kept tokens and a question."""
