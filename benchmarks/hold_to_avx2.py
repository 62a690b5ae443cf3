"""Copies onnxruntime, ncnn and LiteRT into a folder and holds the copies to AVX2, as environment
variables hold the other peers.

They ask the processor at run time, and take no option. The answer depends on XCR0, the
register that says which vector registers the operating system saves: bits 5 to 7 are those of
AVX-512 (Intel's manual, volume 1, section 13.3). `xgetbv` reads it, in three bytes of code; `push 7;
pop rax`, three bytes too, answers that SSE and AVX are there and no more, as on a machine without
AVX-512.

    python benchmarks/hold_to_avx2.py FOLDER
    PYTHONPATH=FOLDER python benchmarks/compare.py ...
"""

import importlib.util
import re
import shutil
import sys
from pathlib import Path

# `xor ecx, ecx` or a move stands before it; `not`, `mov`, `movd`, `shl` or a test of the answer comes
# after it.
_XGETBV = re.compile(
    rb"((?:\x31[\xc9\xf6]|\x89[\xc1-\xff])\x90?)\x0f\x01\xd0"
    rb"(?=[\x40-\x4f]?[\x83\x89\xa8\xc1\xf7]|(?:\x66\x0f|\xc5\xf9)\x6e)"
)
_SSE_AND_AVX = b"\x6a\x07\x58"
_LIBRARIES = {
    "onnxruntime": "capi/*pybind11_state*.so",
    "ncnn": "*.so",
    "ai_edge_litert": "**/*.so*",
}


def hold(package: str, libraries: str, folder: Path) -> int:
    """The number of places changed in the copy of `package` under `folder`."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return 0
    source, target, changed = Path(spec.origin).parent, folder / package, 0
    for name in (package, f"{package}.libs"):  # what it was linked with lies beside it
        if source.with_name(name).exists():
            shutil.copytree(source.with_name(name), folder / name)
    for library in target.glob(libraries):
        code, places = _XGETBV.subn(rb"\1" + _SSE_AND_AVX, library.read_bytes())
        library.write_bytes(code)
        changed += places
    return changed


def main() -> None:
    if len(sys.argv) != 2 or Path(sys.argv[1]).exists():
        raise SystemExit(
            "usage: python benchmarks/hold_to_avx2.py FOLDER, a folder that is not there yet"
        )
    folder = Path(sys.argv[1])
    for package, libraries in _LIBRARIES.items():
        places = hold(package, libraries, folder)
        print(
            f"{package}: {places} places"
            if places
            else f"{package}: not installed, or it asks in another way"
        )
    print(f"run the benchmark with PYTHONPATH={folder.resolve()}")


if __name__ == "__main__":
    main()
