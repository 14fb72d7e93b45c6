"""Provide helpers of the tests, and long tests that run as programs.

The programs are the fuzzer and the tests of kills, leaks, threads and video formats, for instance
`python -m tests.support.fuzz --help`; docs/testing.md explains their figures.
"""
