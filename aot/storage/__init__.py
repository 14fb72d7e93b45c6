"""Write and read tokens files; reading never executes code."""
