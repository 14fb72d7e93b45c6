"""How the bundled shapes model was made: `python -m aot.shapes.training --seed 0`."""
