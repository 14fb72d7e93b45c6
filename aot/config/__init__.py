"""Settings: their schema, and the layers that they come from."""
