"""Environments in which the tools of `peer_methods.py` are installed, and what they return for songs."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from peer_methods import Peer
from peer_runners import RATE

from musicfm_hf import load_audio
from musicfm_hf.data.identity import audio_place, audio_state, digest
from musicfm_hf.data.labeled import LabeledSong
from musicfm_hf.training.files import complete_file, write_json

RUNNERS = Path(__file__).with_name("peer_runners.py")
INSTALLED = "installed.json"
REASON_CHARACTERS = 200


class PeerUnavailableError(RuntimeError):
    """Raised if a tool cannot be installed or started. The message is the reason."""


class Environment:
    """
    A virtual environment with a tool.

    Attributes:
        python (`Path`): Its interpreter.
        version (`str`): Version of the tool.
        packages (`dict[str, str]`): All installed packages with their versions.
    """

    def __init__(self, python: Path, version: str, packages: Mapping[str, str]):
        self.python, self.version, self.packages = python, version, dict(packages)


def install(name: str, peer: Peer, folder: Path) -> Environment:
    """
    Return the environment of a tool in a folder, after creating it if it does not exist or has other requirements.

    Raises:
        PeerUnavailableError: pip cannot install it.
    """
    home = folder / re.sub(r"\W+", "_", name.lower()).strip("_")
    wanted = {"bare": list(peer.bare), "requirements": list(peer.requirements), "metadata": dict(peer.metadata)}
    python = home / "bin" / "python"
    record = json.loads((home / INSTALLED).read_text()) if (home / INSTALLED).is_file() else {}
    if record.get("wanted") != wanted:
        shutil.rmtree(home, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "--python", str(python)]
        _call([sys.executable, "-m", "venv", "--without-pip", str(home)], "does not install")
        if peer.bare:
            _call([*pip, "install", "--quiet", "--no-deps", *peer.bare], "does not install")
        _call([*pip, "install", "--quiet", *peer.requirements], "does not install")
        _add_metadata(python, peer.metadata)
        listed = json.loads(_call([*pip, "list", "--format", "json"], "does not install"))
        packages = {row["name"]: row["version"] for row in listed}
        record = {"wanted": wanted, "packages": packages}
        write_json(home / INSTALLED, record)
    packages = record["packages"]
    versions = {_normal(package): version for package, version in packages.items()}
    return Environment(python, versions[_normal(peer.package)], packages)


def analyze(
    environment: Environment, runner: str, songs: Sequence[LabeledSong], folder: Path, run: bool = True
) -> dict[str, dict[str, Any]]:
    """
    Return what a tool finds in songs. Songs with a result are not analyzed again.

    Args:
        runner (`str`): Function in `peer_runners.py`.
        folder (`Path`): Folder for wav files and results.
        run (`bool`): Whether to analyze songs without a result. If false, they are left out.

    Returns:
        Song id → `{"result": …}` or `{"error": reason}`. If the tool crashes, the songs from there on are left out.

    Raises:
        PeerUnavailableError: the tool cannot be started.
    """
    results = folder / "results" / f"{runner}-{environment.version}"
    results.mkdir(parents=True, exist_ok=True)
    keys = {
        song.id: digest(f"{audio_place(song.audio, song.id)} {audio_state(song.audio)}".encode()) for song in songs
    }
    outputs = {name: results / f"{key}.json" for name, key in keys.items()}
    missing = [song for song in songs if "result" not in _read(outputs[song.id])]
    if run and missing:
        audio = folder / "audio"
        audio.mkdir(exist_ok=True)
        work = []
        for song in missing:
            path = audio / f"{keys[song.id]}.wav"
            if not path.is_file():
                _write_wav(path, song)
            work.append({"audio": str(path.absolute()), "output": str(outputs[song.id].absolute())})
        try:
            _start(environment, runner, work)
        except PeerUnavailableError:  # a crash in the middle leaves the results of the songs before it
            if not any(path.is_file() for path in outputs.values()):
                raise
    return {name: content for name, path in outputs.items() if (content := _read(path))}


def _start(environment: Environment, runner: str, work: Sequence[Mapping[str, str]]) -> None:
    """Analyze songs in the environment. Tools may write files into their working directory, which is a new one."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as directory:
        variables["NUMBA_CACHE_DIR"] = directory  # processes that compile at the same time would spoil a common one
        songs = Path(directory) / "songs.json"
        songs.write_text(json.dumps(work), encoding="utf-8")
        command = [str(environment.python.absolute()), str(RUNNERS), runner, str(songs)]
        _call(command, "does not run", cwd=directory, env=variables)


def _call(command: Sequence[str], problem: str, **options: Any) -> str:
    """Run a command and return its output; if it fails, raise an error with the last error that it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("ERROR:", "× "))] or lines
        reason = errors[-1] if errors else f"exit status {done.returncode}"
        raise PeerUnavailableError(f"{problem}: {_shorten(reason)}")
    return done.stdout


def _shorten(reason: str) -> str:
    """Return a reason without the paths of this machine, in a limited number of characters."""
    reason = re.sub(
        r"(?<![\w:/])/(?:[^\s/'\"]+/)+[^\s'\":]*", "…", reason.removeprefix("ERROR:").removeprefix("×").strip()
    )
    reason = reason.replace("|", "/")  # for tables
    return reason if len(reason) <= REASON_CHARACTERS else f"{reason[:REASON_CHARACTERS]}…"


def _add_metadata(python: Path, metadata: Mapping[str, str]) -> None:
    """Record versions under further names of packages, as pip does."""
    if not metadata:
        return
    site = _call([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], "does not install")
    for name, version in metadata.items():
        folder = Path(site.strip()) / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def _write_wav(path: Path, song: LabeledSong) -> None:
    """Write the audio of a song as all tools can read it: mono, 16 bits, 44.1 kHz."""
    samples = np.clip(load_audio(song.audio, RATE), -1, 1)
    with complete_file(path) as temporary:
        soundfile.write(temporary, samples, RATE, subtype="PCM_16", format="WAV")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _normal(package: str) -> str:
    """Return the name of a package as pip compares it."""
    return re.sub(r"[-_.]+", "-", package).lower()
