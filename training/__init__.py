"""How the bundled shapes model was made: `python -m training --seed 0`."""
