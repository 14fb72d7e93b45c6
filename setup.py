"""Packages are found, not listed; `presets/` lies at the top and is installed as `aot.presets`."""

from setuptools import find_packages, setup

PRESETS = ["aot.presets", "aot.presets.methods", "aot.presets.paper"]
setup(
    packages=[
        *find_packages(include=["aot", "aot.*", "aot_cli", "aot_cli.*"], exclude=["aot.shapes.training"]),
        *PRESETS,
    ],
    package_dir={"aot.presets": "presets"},
)
