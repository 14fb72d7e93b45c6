"""The commands of `aot`, one per module: each calls the library and prints the result."""
