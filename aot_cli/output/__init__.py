"""Format and print the output of commands: tables, pictures, JSON, errors and progress."""
