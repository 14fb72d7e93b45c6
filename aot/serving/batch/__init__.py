"""Compress many videos and answer questions about them; read `run` first.

`jobs` reads the list of videos, `worker` runs jobs with one loaded model, `ray_workers` distributes
jobs to several workers, `results` stores the rows, so that an interrupted run can be resumed, and
`parquet` converts them.
"""
