"""The command line: each command reads its flags, calls the library and prints the result."""
