"""`pip install .` into a fresh environment of each supported Python: how long it takes, how large it is, and whether the
demonstration runs in it, without PyTorch.

Installed is what is committed. pip downloads everything anew, and the cache of the demonstration begins with the corpus alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from importlib.metadata import distributions
from pathlib import Path

from benchmarks import record
from benchmarks.corpora import say
from chiasm.demo import PACKAGE, stamps_root
from chiasm.encoders.cache import cache_folder

PYTHONS = ("3.11", "3.12", "3.13")
SHOWN = 12  # distributions, the largest


def main() -> None:
    stamps_root(say)
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            ["git", "clone", "--quiet", str(Path(__file__).parent.parent), str(folder / "source")], check=True
        )
        for version in PYTHONS:
            rows.append([version, *measure(version, folder / "source", folder / version)])
            say(f"{rows[-1]}")
        sizes = sizes_of(packages_of(folder / PYTHONS[-1] / "venv"))
    largest = dict(sizes.most_common(SHOWN))
    others = {f"{len(sizes) - SHOWN} others": sizes.total() - sum(largest.values())}
    room = ", ".join(f"{distribution} {size / 1e6:.0f}" for distribution, size in {**largest, **others}.items())
    columns = ("Python", "install, s", "of the processor, s", "site-packages, MB", "torch", "`chiasm demo`, s")
    body = [
        record.table(columns, rows),
        "",
        f"Asked for: 60 s, 900 MB, no torch. What takes the room, in MB, on Python {PYTHONS[-1]}: {room}.",
        "",
        "pandas and duckdb are required by the package that ships all-MiniLM-L6-v2, and nothing here imports them. What pip compiles",
        f"is counted. Load of the machine meanwhile: {os.getloadavg()[0]:.1f}.",
    ]
    record.write("install", "Installation without extras", "none", "\n".join(body))


def measure(version: str, source: Path, folder: Path) -> list[object]:
    """Install and run the demonstration; return what is in the columns after the version."""
    venv = folder / "venv"
    subprocess.run([find_python(version), "-m", "venv", str(venv)], check=True)
    corpus = Path("debian") / PACKAGE
    shutil.copytree(cache_folder() / corpus, folder / "cache" / corpus)
    environment = {**os.environ, "CHIASM_CACHE": str(folder / "cache")}
    environment.pop("PYTHONPATH", None)  # what runs is what was installed
    install = [str(venv / "bin" / "pip"), "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
    seconds, processor = record.timed([*install, str(source)], environment, folder)
    packages = packages_of(venv)
    size = sum(file.stat().st_size for file in packages.rglob("*") if file.is_file())
    torch = "present" if (packages / "torch").exists() else "absent"
    shown, _ = record.timed([str(venv / "bin" / "chiasm"), "demo", "--out", "demo"], environment, folder)
    return [f"{seconds:.0f}", f"{processor:.0f}", f"{size / 1e6:,.0f}", torch, f"{shown:.0f}"]


def packages_of(venv: Path) -> Path:
    return next(venv.glob("lib/python3*/site-packages"))


def sizes_of(packages: Path) -> Counter[str]:
    """Bytes of the files of each distribution, those that pip compiled too."""
    sizes: Counter[str] = Counter()
    for distribution in distributions(path=[str(packages)]):
        paths = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
        sizes[distribution.name] = sum(path.stat().st_size for path in paths if path.is_file())
    return sizes


def find_python(version: str) -> str:
    """Return a Python of this version that can make environments: one on `PATH`, else one that pyenv or uv keeps.

    A shim of pyenv for a version that is not active is passed over.

    Raises:
        SystemExit: there is none.
    """
    name = f"python{version}"
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT", home / ".pyenv"))
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local" / "share" / "uv" / "python"))
    candidates = [Path(folder) / name for folder in os.get_exec_path()]
    candidates += sorted(pyenv.glob(f"versions/{version}*/bin/{name}"))
    candidates += sorted(uv.glob(f"cpython-{version}*/bin/{name}"))
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(Path.is_file, candidates):
        answer = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if answer.stdout.strip() == version:
            return str(candidate)
    raise SystemExit(
        f"Python {version} is needed, and there is none on PATH, of pyenv or of uv. Install one: pyenv install {version}, "
        f"uv python install {version}, or apt-get install {name}-venv"
    )


if __name__ == "__main__":
    main()
