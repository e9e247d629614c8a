"""The environments: that of the peers is made by pip, and both say what is in them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
OURS = ("dacapo", "numpy", "numba", "scipy", "torch", "tensorstore", "edt", "fastremap", "mwatershed", "daisy", "zarr")
_VERSIONS = """
import importlib.metadata, json, platform, sys
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def requirements() -> list[str]:
    """The lines of peers.txt."""
    lines = (line.split("#")[0].strip() for line in (HERE / "peers.txt").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def names() -> list[str]:
    """Of the peers, without versions."""
    return [line.split("==")[0].split("@")[0].strip() for line in requirements()]


def peers_python(folder: Path, log: Callable[[str], None]) -> tuple[Path | None, dict[str, str]]:
    """Python of the peers' environment, made if it is not there, and what could not be installed, with why."""
    python, done = folder / "bin" / "python", folder / "failed.json"
    if python.exists() and (done.exists() or versions(python, names()).keys() > {"python"}):
        return python, json.loads(done.read_text()) if done.exists() else {}
    failed: dict[str, str] = {}
    try:
        venv.create(folder, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return None, {"all": f"no environment: {error}"}
    for line in requirements():  # one by one: what fails does not take the others with it
        log(f"installing {line}")
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        installed = subprocess.run([*command, *_held(python), line], capture_output=True, text=True)
        if installed.returncode:
            said = [s for s in installed.stderr.splitlines() if s.strip()]
            failed[line] = next((s for s in said if "error" in s.lower()), said[-1] if said else "pip failed")[:200]
            log(f"  {failed[line]}")
    done.write_text(json.dumps(failed, indent=1))
    return python, failed


def _held(python: Path) -> list[str]:
    """Keep pip from exchanging what is pinned and installed already, torch above all."""
    there = versions(python, names())
    return [f"{n}=={there[n]}" for n in names() if n in there]


def versions(python: Path, packages: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Of the packages that are installed there."""
    said = subprocess.run([str(python), "-c", _VERSIONS, *packages], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(said.stdout)
    return found


def machine() -> dict[str, str]:
    """What the figures depend on."""
    cpu, memory = platform.processor() or "unknown", "unknown"
    flags = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":")[1].strip()
            elif line.startswith("flags"):
                flags = line
        memory = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    except (OSError, ValueError):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": f"{cpu}, {cores} cores" + (", AVX-512 bfloat16" if "avx512_bf16" in flags else ""),
        "memory": memory,
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
    }
