"""Reports: what was kept, as values, pages and pictures."""
