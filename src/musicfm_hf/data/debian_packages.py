"""Audio files of Debian packages, with their licenses: download with apt, extract without installing."""

import fnmatch
import json
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO

from ..training.files import put_in_place, temporary_path, write_json
from .catalog import AUDIO_EXTENSIONS

DOWNLOADS = ".debs"  # folder of packages that are not extracted yet

_ARCHIVES = frozenset([".pk3", ".pk4", ".zip"])  # zip files in which games keep their data

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_RECORD = "package.json"  # marks the folder of a package as complete
_COPYRIGHT = "copyright.txt"


class UnknownPackageError(ValueError):
    """The archive that apt uses has no package of this name."""


@dataclass(frozen=True)
class ExtractedPackage:
    """
    A package whose audio files are extracted.

    Attributes:
        folder (`Path`): Folder of the package. Files have the paths to which the package would install them; files
            in archives of games (`.pk3`, `.zip`) are beside their archive.
        name, version, homepage (`str`): Of the package.
        source (`str`): Name of its source package.
    """

    folder: Path
    name: str
    version: str
    source: str
    homepage: str

    @property
    def copyright_text(self) -> str:
        """Copyright file of the package, which states the licenses; empty if the package has none."""
        path = self.folder / _COPYRIGHT
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


class AptArchive:
    """
    A Debian archive that apt downloads packages from.

    Args:
        folder (`Path`): Folder for downloads; created if needed.
        mirror (`str`, *optional*): URL of a Debian archive. By default, the archives that apt is configured to use.
        suite (`str`): Release to download from a mirror.

    Raises:
        OSError: apt is not installed, or the mirror cannot be read.
    """

    def __init__(self, folder: Path, mirror: str | None = None, suite: str = "stable"):
        self.folder = folder
        self._options: list[str] = []
        for command in ("apt-get", "dpkg-deb"):
            if shutil.which(command) is None:
                raise OSError(
                    f"{command} is not installed, which downloads Debian packages: run `musicfm prepare packages` on "
                    "Debian or Ubuntu (a container will do), and copy the output folder."
                )
        folder.mkdir(parents=True, exist_ok=True)
        if mirror is not None:
            self._use_mirror(mirror, suite)

    def _use_mirror(self, mirror: str, suite: str) -> None:
        """Let apt read the index of a mirror into a folder of its own, which needs no root."""
        state = (self.folder / "apt").absolute()
        (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        signed = f"[signed-by={_KEYRING}] " if _KEYRING.is_file() else ""
        (state / "sources.list").write_text(f"deb {signed}{mirror} {suite} main\n", encoding="utf-8")
        settings = {
            "Dir::Etc::SourceList": state / "sources.list",
            "Dir::Etc::SourceParts": "-",
            "Dir::State::Lists": state / "lists",
            "Dir::Cache": state,
            "APT::Sandbox::User": "",
        }
        self._options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        self._run("update", "--error-on=any")

    def _run(self, *arguments: str) -> None:
        """Run apt-get in the folder of downloads."""
        command = ["apt-get", "-q", *self._options, *arguments]
        result = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if result.returncode == 0:
            return
        lines = [line.removeprefix("E: ") for line in result.stderr.splitlines() if line.startswith("E: ")]
        reason = " ".join(lines) or result.stderr.strip()
        if re.search(r"Unable to locate package|Can't select .* version|has no installation candidate", reason):
            raise UnknownPackageError(
                f"apt: {reason}. Run `apt-get update`, choose another name, or choose an archive with `--mirror URL`."
            )
        raise OSError(
            f"apt-get {arguments[0]} failed: {reason}. Check the network, then repeat the command to resume."
        )

    def download(self, package: str) -> Path:
        """
        Download a package, unless it has been.

        Raises:
            UnknownPackageError: the archive does not have the package.
            OSError: the download failed.
        """
        self._run("download", package)  # apt checks the digest of an earlier download, and keeps it if it is equal
        files = sorted(self.folder.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
        if not files:
            raise OSError(f"apt-get reported no error, but did not download {package} to {self.folder}.")
        return files[-1]


def load_package(folder: Path) -> ExtractedPackage | None:
    """Return a package that was extracted to `folder`, or `None` if it was not."""
    if not (folder / _RECORD).is_file():
        return None
    return ExtractedPackage(folder=folder, **json.loads((folder / _RECORD).read_text(encoding="utf-8")))


def extract_package(deb: Path, folder: Path) -> ExtractedPackage:
    """
    Extract the audio files and the copyright file of a package. The folder is complete or absent.

    Args:
        deb: The package, a `.deb` file.
        folder: Folder to write to; an earlier one is replaced.

    Raises:
        OSError: the file is not a complete package.
    """
    fields = ("Package", "Version", "Source", "Homepage")
    partial = temporary_path(folder)
    partial.mkdir(parents=True)
    try:
        values = [_read_field(deb, field) for field in fields]
        name, version, source, homepage = values
        package = ExtractedPackage(folder, name, version, source.partition(" ")[0] or name, homepage)
        _extract_files(deb, partial)
        record = {key: value for key, value in asdict(package).items() if key != "folder"}
        write_json(partial / _RECORD, record, ascii_only=False)
        put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return package


def _read_field(deb: Path, field: str) -> str:
    """Return a field of the control file of a package; empty if it is absent."""
    result = subprocess.run(["dpkg-deb", "--field", str(deb), field], capture_output=True, text=True)
    if result.returncode:
        raise OSError(f"{deb} is not a complete package ({result.stderr.strip()}): delete it and repeat the command.")
    return result.stdout.strip()


def _extract_files(deb: Path, folder: Path) -> None:
    """Write the audio files of a package, also those in archives, and its copyright file."""
    with TemporaryFile() as data:
        result = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=data, stderr=subprocess.PIPE)
        if result.returncode:
            reason = result.stderr.decode("utf-8", "replace").strip()
            raise OSError(f"{deb} cannot be extracted ({reason}): delete it and repeat the command.")
        data.seek(0)
        with tarfile.open(fileobj=data, mode="r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                file = archive.extractfile(member) if member.isfile() else None
                if file is None:
                    continue
                if path.suffix.lower() in _ARCHIVES and zipfile.is_zipfile(file):
                    file.seek(0)
                    _extract_zip(file, path.parent, folder)
                elif path.name == "copyright" and "doc" in path.parts:
                    _write_file(file, folder, PurePosixPath(_COPYRIGHT))
                elif path.suffix.lower() in AUDIO_EXTENSIONS:
                    _write_file(file, folder, path)


def _extract_zip(file: IO[bytes], parent: PurePosixPath, folder: Path) -> None:
    """Write the audio files of a zip archive, relative to the folder `parent` of the archive."""
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if PurePosixPath(name).suffix.lower() in AUDIO_EXTENSIONS:
                with archive.open(name) as member:
                    _write_file(member, folder, parent / name)


def _write_file(file: IO[bytes], folder: Path, path: PurePosixPath) -> None:
    """Write a file to a path below a folder. Paths that lead out of the folder are ignored."""
    if path.is_absolute() or ".." in path.parts:
        return
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as output:
        shutil.copyfileobj(file, output)


@dataclass(frozen=True)
class FileLicense:
    """
    License of some files of a package.

    Attributes:
        patterns (`tuple[str, ...]`): Paths in the source package, with the wildcards `*` and `?`.
        name (`str`): Short name, such as `CC-BY-SA-3.0`.
        holders (`str`): Copyright holders with years, separated by semicolons.
    """

    patterns: tuple[str, ...]
    name: str
    holders: str

    def covers(self, path: str) -> bool:
        """Return whether a pattern matches the end of a path, because packages install files below other folders."""
        parts = PurePosixPath(path).parts
        ends = ["/".join(parts[index:]) for index in range(len(parts))]
        names = [PurePosixPath(pattern).name for pattern in self.patterns if not re.search(r"[*?]", pattern)]
        is_named = parts[-1] in names
        return is_named or any(fnmatch.fnmatchcase(end, pattern) for pattern in self.patterns for end in ends)


def parse_copyright(text: str) -> list[FileLicense]:
    """
    Read the licenses of a machine-readable copyright file (DEP-5,
    www.debian.org/doc/packaging-manuals/copyright-format/1.0), in the order of the file. For another file that names
    one license in `/usr/share/common-licenses`, return this one for all files of the package; otherwise nothing.
    """
    if not re.match(r"\s*Format(-Specification)?:", text):
        names = set(re.findall(r"/usr/share/common-licenses/([A-Z][\w.-]*\w)", text))
        return [FileLicense(("*",), names.pop(), "")] if len(names) == 1 else []
    licenses = []
    for paragraph in re.split(r"\n[ \t]*\n", text):
        fields = dict(re.findall(r"^([\w-]+):(.*(?:\n[ \t].*)*)", paragraph, re.MULTILINE))
        if "Files" in fields:
            holders = [line.strip() for line in fields.get("Copyright", "").splitlines()]
            name = fields.get("License", "").partition("\n")[0].strip()
            patterns = tuple(fields["Files"].replace(",", " ").split())
            licenses.append(FileLicense(patterns, name, "; ".join(filter(None, holders))))
    return licenses


def find_license(licenses: Sequence[FileLicense], path: str) -> FileLicense | None:
    """Return the license of a file: as the format demands, that of the last paragraph that covers it."""
    return next((entry for entry in reversed(licenses) if entry.covers(path)), None)
