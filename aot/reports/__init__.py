"""Report what was kept, as values, web pages and pictures."""
