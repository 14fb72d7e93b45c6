"""Report on kept tokens with values, web pages and pictures."""
