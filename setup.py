"""The distribution ``omnistream``: the core library and its command line. The ROS 2 packages, the LeRobot plugins under
policies/ and sim/ and the recipes under training/ are installed apart, each for those who use it."""

from pathlib import Path

from setuptools import find_packages, setup

README = Path(__file__).parent / "README.md"

EXTRAS = {
    "sources": ["rosbags>=0.11", "mcap", "lz4", "zstandard", "av>=12", "opencv-python-headless>=4.9", "pillow"],
    "sinks": [
        "open3d-cpu>=0.19 ; platform_system == 'Linux' and platform_machine == 'x86_64'",
        "open3d>=0.19 ; platform_system != 'Linux' or platform_machine != 'x86_64'",
        "rerun-sdk>=0.22",
        "matplotlib",
    ],
    "export": ["onnx", "onnxscript", "onnxruntime"],
    "eval": ["evo", "scikit-learn", "scipy", "transformers>=4.56"],
    "train": ["tensorboard", "transformers>=4.56"],
    "test": ["pytest>=8", "pytest-timeout", "hypothesis"],
}
EXTRAS["all"] = sorted(
    {requirement for extra in ("sources", "sinks", "export", "eval", "train") for requirement in EXTRAS[extra]}
)
EXTRAS["dev"] = [*EXTRAS["all"], *EXTRAS["test"], "ruff", "mypy", "pre-commit"]

setup(
    name="omnistream",
    version="0.1.0",
    description="Streaming vision for robots: one causal backbone, frame by frame",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The OmniStream toolkit contributors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    packages=find_packages(include=["omnistream_core", "omnistream_core.*"]),
    package_data={"omnistream_core": ["checkpoints/**", "assets/**", "native/*.cpp", "py.typed"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.9",
        "numpy>=1.26",
        "safetensors>=0.4.3",
        "huggingface_hub>=0.30",
        "typer>=0.12",
        "rich>=13",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["omnistream = omnistream_core.cli:main"]},
    zip_safe=False,
)
