"""Packages of the wheel: the library without its workshop, and the demo model from weights/demo."""

from setuptools import find_packages, setup

# How the demo model is trained, and developers' tools.
WORKSHOP = ["LTX_2_MLX.development*", "LTX_2_MLX.training*"]
DEMO = "LTX_2_MLX.weights.demo"

setup(
    packages=[*find_packages(include=["LTX_2_MLX*"], exclude=WORKSHOP), "LTX_2_MLX.weights", DEMO, f"{DEMO}.gemma"],
    package_dir={"LTX_2_MLX.weights": "weights"},
    package_data={
        "LTX_2_MLX": ["py.typed"],
        "LTX_2_MLX.pages": ["*.css", "*.js"],
        "LTX_2_MLX.weights": ["README.md"],
        DEMO: ["*.safetensors", "manifest.json"],
        f"{DEMO}.gemma": ["*"],
    },
)
