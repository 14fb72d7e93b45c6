"""The command line: each command parses, builds a configuration, calls the library and renders."""
