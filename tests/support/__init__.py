"""What is run long and seldom, and in CI for a minute: the fuzzer, and tests of kills, leaks and threads.

Each is a command, for instance `python -m tests.support.fuzz --help`; docs/testing.md says how to read their figures.
"""
