"""What the compiler and the assembler make of the kernels, without a GPU: NVVM → ptxas →
nvdisasm."""

import functools
import hashlib
import importlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
Capability = tuple[int, int]
OLDEST: Capability = (7, 5)  # for which CUDA 13 compiles; its multiprocessors have least of all
CAPABILITIES: tuple[Capability, ...] = (OLDEST, (8, 0), (9, 0))
_TOOLS = ("numba", "numba-cuda", "nvidia-cuda-nvcc", "nvidia-cuda-nvdisasm", "nvidia-nvvm")
# (warps, shared bytes, shared bytes kept by the system a block) of a multiprocessor; registers are
# 65,536 and are dealt out to warps in portions of 256. Source: CUDA C++ Programming Guide 13.0,
# Compute Capabilities.
_MULTIPROCESSOR = {
    (7, 5): (32, 64 * 1024, 0),
    (8, 0): (64, 164 * 1024, 1024),
    (9, 0): (64, 228 * 1024, 1024),
}


class Code(NamedTuple):
    """A kernel's machine code for one compute capability."""

    kernel: str
    capability: tuple[int, int]
    registers: int  # a thread
    shared: int  # bytes a block, static
    stack: int  # bytes a thread of local memory, spilled registers among them
    local: int  # instructions that use local memory
    float64: int  # instructions that compute with float64
    occupancy: int  # per cent of a multiprocessor's warps that have room
    # per cent of the instructions of the loop that multiplies most that are multiply-adds; 0
    # without such a loop
    ffma: int
    lds128: int  # 128-bit loads of shared memory
    ldg128: int  # 128-bit loads of global memory


def tool(name: str) -> str:
    """The path of ptxas or nvdisasm; raises FileNotFoundError that says how to get it."""
    places = [Path(folder, "nvidia", "cu13", "bin", name) for folder in sys.path]
    found = next((str(place) for place in places if place.exists()), None) or shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is missing: pip install 'minicnn-numba[test]' brings it")
    return found


@functools.cache
def kernels() -> dict[str, tuple]:
    """name: (function, signature) of every kernel there is, those of all rules included."""
    from numba import types

    from minicnn.activations import RULES
    from minicnn.kernels.cuda import step, tensor
    from minicnn.kernels.cuda.gather import (
        channels_signature,
        gather,
        gather_channels,
        gather_signature,
        gather_views,
        views_signature,
    )
    from minicnn.kernels.cuda.launches import FINISH, OPERATION, launches
    from minicnn.kernels.cuda.rules import compile_loss, compile_update, rule_launches
    from minicnn.program.operations import OPERATIONS
    from minicnn.rules import LossRule, OptimizerRule

    found = {
        kernel.__name__: (kernel, signature)
        for kernel, signature in (step.SIGNATURES | tensor.SIGNATURES).items()
    }
    operations = [
        (row.module, launches(row.module) or {}) for row in OPERATIONS.values() if row.rule is None
    ]
    for name, operation in operations + [
        (rule.name, rule_launches(rule)) for rule in RULES.values()
    ]:
        for which, ones in operation.items():
            for kernel, _ in ones:
                module = kernel.__module__
                own = (
                    (module.rpartition(".")[2], kernel.__name__)
                    if module.startswith("minicnn.")
                    else (name, which)
                )
                found[".".join(own)] = (kernel, FINISH if which == "finish" else OPERATION)
    for dtype in (types.uint8, types.float32):
        found[f"gather_{dtype}"] = (gather, gather_signature(dtype))
        found[f"gather_channels_{dtype}"] = (gather_channels, channels_signature(dtype))
        found[f"gather_views_{dtype}"] = (gather_views, views_signature(dtype))
    made_by: dict = {LossRule: compile_loss, OptimizerRule: compile_update}
    for rule in rules():
        compiled = made_by[type(rule)](rule)
        found[rule.name] = (compiled.function, compiled.signature)
    return found


def rules() -> Iterator[Any]:
    """The built-in losses and optimizers, those of the example plugins, and the bases of rules on
    steps."""
    from minicnn import plugins
    from minicnn.rules import StepRule

    found = []
    for folder in sorted(ROOT.glob("plugins/minicnn-*")):
        sys.path.append(str(folder))
        module = importlib.import_module(folder.name.replace("-", "_"))
        for hook in ("minicnn_losses", "minicnn_optimizers"):
            found += getattr(module, hook, list)()
    found += [
        entry.get()
        for entry in plugins.entries()
        if entry.kind in ("loss", "optimizer") and entry.distribution == "minicnn-numba"
    ]
    for rule in found:
        parts = rule.bases if isinstance(rule, StepRule) else [rule]
        yield from (part for part in parts if not isinstance(part, str))


def compiled(name: str, capabilities: Sequence[Capability]) -> tuple[str, dict[Capability, str]]:
    """A kernel's name in machine code, and its PTX for each capability: Numba's part of the work is
    the same for all of them, and done once."""
    from numba.cuda.compiler import compile_cuda, kernel_fixup
    from numba.cuda.cudadrv.nvvm import set_launch_bounds

    from minicnn.kernels.cuda.tile import launch_bounds

    function, signature = kernels()[name]
    made = compile_cuda(
        function, signature.return_type, signature.args, nvvm_options={"opt": 3}, cc=OLDEST
    )
    kernel = made.library.get_function(made.fndesc.llvm_func_name)
    kernel_fixup(kernel, False)
    set_launch_bounds(kernel, launch_bounds(function))
    return kernel.name, {
        capability: made.library.get_asm_str(capability) for capability in capabilities
    }


def examine(names: Sequence[str], capabilities: Sequence[Capability]) -> list[Code]:
    """Some kernels for some capabilities: NVVM, then the assembler and the disassembler once a
    capability, which take longer to start than a kernel takes them."""
    made = {name: compiled(name, capabilities) for name in names}
    codes = []
    for capability in capabilities:
        texts = [ptx[capability] for _, ptx in made.values()]
        whole = "\n".join(texts[:1] + [_HEADER.sub("", text) for text in texts[1:]])
        report, listing = _assembled(whole, capability)
        for name, (symbol, _) in made.items():
            codes.append(_count(name, capability, report[symbol], listing[symbol]))
    return codes


_HEADER = re.compile(r"^\.(version|target|address_size).*$", re.MULTILINE)


def _assembled(ptx: str, capability: Capability) -> tuple[dict[str, str], dict[str, str]]:
    """What the assembler says of each kernel, and its listing, by its name in machine code. Raises
    RuntimeError if the assembler refuses."""
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "kernels.ptx"), Path(folder, "kernels.cubin")
        source.write_text(ptx, encoding="utf-8")
        architecture = f"-arch=sm_{capability[0]}{capability[1]}"
        done = subprocess.run(
            [tool("ptxas"), "-v", architecture, source, "-o", binary],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"ptxas: {done.stderr}")
        listing = subprocess.check_output([tool("nvdisasm"), "-c", binary], text=True)
    return (
        _parts(done.stderr, r"Compiling entry function '(\w+)'"),
        _parts(listing, r"^\s*\.section\s+\.text\.(\w+)"),
    )


def _parts(text: str, begin: str) -> dict[str, str]:
    """The parts of ``text`` that begin where ``begin`` matches, by what is in its group."""
    pieces = re.split(begin, text, flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def _count(name: str, capability: Capability, report: str, listing: str) -> Code:
    """What is in a kernel."""
    from minicnn.kernels.cuda.tile import THREADS

    def said(pattern: str) -> int:
        found = re.search(pattern, report)
        return int(found[1]) if found else 0

    registers, shared = said(r"Used (\d+) registers"), said(r"(\d+) bytes smem")
    instructions = list(_instructions(listing))
    operations = Counter(operation for operation, _ in instructions)

    def count(pattern: str) -> int:
        return sum(
            number for operation, number in operations.items() if re.match(pattern, operation)
        )

    warps, shared_bytes, kept = _MULTIPROCESSOR[capability]
    warps_a_block = THREADS // 32
    by_registers = 65536 // (-(-registers * 32 // 256) * 256) // warps_a_block
    by_shared = shared_bytes // (shared + kept) if shared + kept else warps
    blocks = min(by_registers, by_shared, warps // warps_a_block)
    return Code(
        name,
        capability,
        registers,
        shared,
        said(r"(\d+) bytes stack"),
        count(r"(LDL|STL)\b"),
        count(r"D(ADD|MUL|FMA|SETP|MNMX)\b|\w+\.(.*\.)?F64"),
        100 * blocks * warps_a_block // warps,
        _ffma_share(instructions),
        count(r"LDS\.(.*\.)?128"),
        count(r"LDG\.(.*\.)?128"),
    )


def _instructions(listing: str) -> Iterator[tuple[str, int | None]]:
    """(operation, number of the instruction it jumps to or None) of each instruction."""
    labels, lines = {}, []
    for line in listing.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(lines)
        elif instruction := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@\S+\s+)?(\S+?);?(?:\s.*)?$", line):
            lines.append((instruction[1], re.search(r"BRA.*`\((\.L_x_\d+)\)", line)))
    for operation, jump in lines:
        yield operation, labels.get(jump[1]) if jump else None


def _ffma_share(instructions: list[tuple[str, int | None]]) -> int:
    """Per cent of multiply-adds in the loop with the largest share of them, among loops with at
    least 16."""
    shares = [0]
    for end, (_, start) in enumerate(instructions):
        if start is not None and start <= end:
            loop = [operation for operation, _ in instructions[start : end + 1]]
            multiply_adds = sum(operation.startswith("FFMA") for operation in loop)
            shares.append(100 * multiply_adds // len(loop) if multiply_adds >= 16 else 0)
    return max(shares)


def examine_all(names: Sequence[str], capabilities: Sequence[Capability]) -> list[Code]:
    """Kernels for each of the capabilities, on two processes; what no source of theirs has changed
    since is remembered."""
    digest = hashlib.sha256(repr([names, capabilities, *map(version, _TOOLS)]).encode())
    for path in sorted(
        [
            *ROOT.glob("minicnn/**/*.py"),
            *ROOT.glob("plugins/*/*.py"),
            ROOT / "pyproject.toml",
            Path(__file__),
        ]
    ):
        digest.update(path.read_bytes())
    remembered = ROOT / ".pytest_cache" / f"machine-code-{digest.hexdigest()[:16]}.json"
    if remembered.is_file():
        return [Code(row[0], tuple(row[1]), *row[2:]) for row in json.loads(remembered.read_text())]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        halves = pool.map(examine, (names[::2], names[1::2]), [capabilities] * 2)
        codes = [code for half in halves for code in half]
    remembered.parent.mkdir(exist_ok=True)
    remembered.write_text(json.dumps(codes))
    return codes


def table(codes: list[Code]) -> str:
    """The rows, aligned, with the names of the columns above."""
    rows = [
        Code._fields,
        *((code.kernel, "{}.{}".format(*code.capability), *map(str, code[2:])) for code in codes),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(Code._fields))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    names = list(kernels())
    every = sorted(examine_all(names, CAPABILITIES), key=lambda code: names.index(code.kernel))
    print(table(every))
