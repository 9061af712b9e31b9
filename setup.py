"""Packaging. Version ranges are deliberately wide; constraints.txt pins the versions that are tested together."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (ROOT / "src/musicfm_hf/__init__.py").read_text(encoding="utf-8"))[1]

setup(
    name="musicfm_hf",
    version=version,
    description="MusicFM in the Hugging Face ecosystem: music embeddings, pretraining, fine-tuning, sharing",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.11",
    packages=[*find_packages("src"), "musicfm_hf.hub_cards", "musicfm_hf.recipes"],
    package_dir={"": "src", "musicfm_hf.hub_cards": "hub_cards", "musicfm_hf.recipes": "recipes"},
    package_data={
        "musicfm_hf": ["py.typed", "musicfm-small/**", "data/*.tsv"],
        "musicfm_hf.hub_cards": ["*.md", "space/*"],
        "musicfm_hf.recipes": ["**/*.yaml"],
    },
    entry_points={"console_scripts": ["musicfm = musicfm_hf.cli.main:main"]},
    install_requires=[
        "accelerate>=1.10",
        "huggingface_hub>=1.0",
        "jinja2>=3.1",
        "numpy>=2.0",
        "safetensors>=0.5",
        "soundfile>=0.13",
        "soxr>=0.5",
        "torch>=2.6",
        "tqdm>=4.66",
        "transformers>=5.19,<6",
    ],
    extras_require={
        "train": ["datasets>=5.1", "peft>=0.18", "pyyaml>=6.0", "tensorboard>=2.18"],
        "tasks": ["evaluate>=0.4.5", "librosa>=0.11", "matplotlib>=3.9", "mir_eval>=0.8", "scikit-learn>=1.5"],
        "effects": ["scipy>=1.12"],  # `--effects` of pretraining and fine-tuning; "tasks" installs it too
        "av": ["av>=14.0"],  # reads m4a, mp4, webm, wma and videos
        "files": ["mido>=1.3", "mir_eval>=0.8", "mutagen>=1.47"],  # MIDI files, and tags of audio files
        "onnx": ["onnx>=1.18", "onnxruntime>=1.22", "onnxscript>=0.5"],
        "openvino": ["nncf>=2.17", "onnx>=1.18", "onnxscript>=0.5", "openvino>=2025.2"],
        "mirdata": ["mirdata>=1.0"],
        # The Makefile installs mirdata without its dependencies, because smart_open[all] pulls in the clients of three
        # cloud services. POP909 also needs tinysoundfont: pip install --no-deps tinysoundfont
        "pop909": ["mido>=1.3", "pretty_midi>=0.2.10"],
        "lead-sheets": ["mido>=1.3", "music21>=9.1"],  # `musicfm prepare lead_sheets`
        "search": ["datasets>=5.1", "faiss-cpu>=1.9"],
        "sentence-transformers": ["datasets>=5.1", "sentence-transformers>=6.0"],
        "mteb": ["datasets>=5.1", "mteb>=2.26"],  # tests: make test-integrations
        "space": ["gradio>=6.24"],  # hub_cards/space
        "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"],
        "dev": [
            "av>=14.0",
            "chardet>=5.0",
            "deprecated>=1.2",
            "faiss-cpu>=1.9",
            "hypothesis>=6.100",
            "ipykernel>=6.29",
            "jams>=0.3.4",  # checks our JAMS files
            "mido>=1.3",
            "music21>=9.1",
            "mutagen>=1.47",
            "mypy>=1.15",
            "nbclient>=0.10",
            "nncf>=2.17",
            "onnx>=1.18",
            "onnxruntime>=1.22",
            "onnxscript>=0.5",
            "openvino>=2025.2",
            "parameterized>=0.9",
            "pretty_midi>=0.2.10",
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "smart_open>=5.0",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
)
