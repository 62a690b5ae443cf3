"""A package for a new rule, from the templates beside this file."""

import re
from importlib.resources import files
from pathlib import Path
from string import Template

from minicnn import __version__
from minicnn.errors import MinicnnError, UsageError


def write_package(name: str, kind: str, folder: Path | None = None) -> Path:
    """Write a complete package that offers ``kind`` ``name`` into ``folder``, new or empty; return the folder.

    Raises `UsageError` for a name that cannot be one, or a folder that holds something.
    """
    plain = name.strip().lower().replace("_", "-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", plain):
        raise UsageError(f"NAME must be letters and digits with - or _ between them, not {name!r}")
    distribution = f"minicnn-{plain}"
    module = distribution.replace("-", "_")
    folder = folder or Path(distribution)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there and not empty; name another folder with --output")
    option = {"optimizer": "opt", "loss": "loss", "schedule": "sched"}[kind]
    words = {"name": plain, "kind": kind, "distribution": distribution, "module": module, "version": __version__,
             "constant": plain.replace("-", "_").upper(), "option": option}  # fmt: skip
    templates = files("minicnn.cli").joinpath("templates")
    written = {"pyproject.toml": "pyproject.toml", "README.md": "README.md", f"{module}.py": f"{kind}.py",
               f"tests/test_{module}.py": "test.py"}  # fmt: skip
    try:
        for path, template in written.items():
            text = templates.joinpath(f"{template}.txt").read_text(encoding="utf-8")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(Template(text).substitute(words), encoding="utf-8")
    except OSError as error:
        raise MinicnnError(f"cannot write {folder}: {error.strerror}") from None
    return folder
