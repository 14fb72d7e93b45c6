"""The machine a run is on: memory, stage times, devices, paths and files."""
