"""The page of an exported detector: onnxruntime-web beside it, so that it needs no network when opened."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from sdmad_lite.errors import OutputError

RUNTIME, VERSION = "onnxruntime-web", "1.30.0"
"""The npm package that the page computes with."""
RUNTIME_FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""Its files that the page needs, and their SHA-256."""


def add_runtime(folder: Path, source: str | Path) -> None:
    """Copy what the page needs of onnxruntime-web into a folder, from a folder of that npm package or by npm."""
    with TemporaryDirectory() as place:
        if source == "npm":
            source = fetched(Path(place))
        folder.mkdir()
        for name, digest in RUNTIME_FILES.items():
            file = Path(source, "dist", name)
            if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
                how = f"give runtime='npm', or the folder of an installed {RUNTIME}@{VERSION}"
                raise OutputError(f"{file}: is not there or not of {RUNTIME} {VERSION}; {how}")
            shutil.copy(file, folder / name)


def fetched(place: Path) -> Path:
    """The package as npm fetches it, from where it is told to."""
    if not (npm := shutil.which("npm")):
        raise OutputError(f"runtime='npm': there is no npm; install Node.js, or give the folder of {RUNTIME}@{VERSION}")
    done = subprocess.run([npm, "pack", f"{RUNTIME}@{VERSION}"], cwd=place, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise OutputError(f"runtime='npm': npm cannot fetch {RUNTIME}@{VERSION} ({why}); give a folder of it")
    shutil.unpack_archive(next(place.glob("*.tgz")), place, filter="data")
    return place / "package"
