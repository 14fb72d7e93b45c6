"""Loading: which checkpoint a name means, where it is, and how it is loaded."""
