"""Serve a model by HTTP, in the form of the OpenAI API.

`service` has the work of a request in plain functions; `app` is the HTTP around it.
"""
