"""Train the bundled shapes model: `python -m aot.shapes.training --seed 0`."""
