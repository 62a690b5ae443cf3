"""Every kernel compiled for three compute capabilities, and what its machine code needs, without a
GPU. Where the slow tests are not asked for, it is the oldest capability alone, and of the optimizers
and losses, which are made into kernels in one way, one each.

`budgets.txt` is what `python -m tests.cuda.machine_code` printed when it was last looked at: no
kernel may need more.
"""

import copyreg
import re
import sys
from pathlib import Path

import pytest
from numba import cuda
from numba.cuda.core.ir import VarMap

from minicnn.kernels.cuda import tile
from tests.cuda.machine_code import (
    CAPABILITIES,
    OLDEST,
    Code,
    _ffma_share,
    _instructions,
    compiled,
    examine_all,
    kernels,
    rules,
    tool,
)

BUDGETS = Path(__file__).with_name("budgets.txt")
ONE_OF_EACH = {"adam", "mse"}  # an optimizer and a loss


@pytest.fixture(
    scope="module",
    params=[(OLDEST,), pytest.param(CAPABILITIES, marks=pytest.mark.slow)],
    ids=["oldest", "all"],
)
def codes(request):
    names = set(kernels())
    if request.param == (OLDEST,):
        if "not slow" not in request.config.option.markexpr:
            pytest.skip("all capabilities are looked at")
        names -= {rule.name for rule in rules()} - ONE_OF_EACH
    examined = examine_all(sorted(names), request.param)
    return {(code.kernel, code.capability): code for code in examined}


def budgets():
    """The rows of the table by kernel and capability."""
    columns, *rows = (line.split() for line in BUDGETS.read_text(encoding="utf-8").splitlines())
    assert tuple(columns) == Code._fields
    found = {}
    for name, capability, *numbers in rows:
        major, minor = map(int, capability.split("."))
        found[name, (major, minor)] = Code(name, (major, minor), *map(int, numbers))
    return found


def test_the_assembler_and_the_disassembler_are_there():
    assert tool("ptxas") and tool("nvdisasm")
    with pytest.raises(FileNotFoundError, match="pip install"):
        tool("no-such-tool")


def test_every_kernel_compiles_for_every_capability(codes):
    capabilities = {capability for _, capability in codes}
    assert capabilities in ({OLDEST}, set(CAPABILITIES))
    left_out = {rule.name for rule in rules()} - ONE_OF_EACH if capabilities == {OLDEST} else set()
    assert {kernel for kernel, _ in codes} == set(kernels()) - left_out
    assert len(codes) == (len(kernels()) - len(left_out)) * len(capabilities)
    assert {"conv2d.forward", "silu.backward", "add_parts", "gather_uint8", "adam", "mse"} < set(
        kernels()
    )


def without_names(ptx):
    """PTX without names that count the compilations of a process."""
    return re.sub(r"_Z\w+|_smem_\d+", "name", ptx)


def alone(name, capability):
    function, signature = kernels()[name]
    ptx, _ = cuda.compile_ptx(
        function, signature, cc=capability, launch_bounds=tile.launch_bounds(function)
    )
    return without_names(ptx)


def test_what_numba_does_once_for_all_capabilities_is_what_it_does_for_each():
    for capability, ptx in compiled("cross_entropy", CAPABILITIES)[1].items():
        assert without_names(ptx) == alone("cross_entropy", capability)


def test_inlining_with_one_list_of_variables_makes_the_same_code_as_with_a_copy_for_each_block(
    monkeypatch,
):
    here = alone("conv2d.add_forward", (7, 5))
    monkeypatch.delitem(copyreg.dispatch_table, VarMap)
    assert alone("conv2d.add_forward", (7, 5)) == here


def test_no_kernel_spills_uses_local_memory_or_computes_in_float64(codes):
    assert [code for code in codes.values() if code.stack or code.local or code.float64] == []


def test_every_kernel_fits_a_multiprocessor(codes):
    assert [
        code
        for code in codes.values()
        if code.registers > 128 or code.shared > 48 * 1024 or code.occupancy < 25
    ] == []


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the budgets are of what Numba makes of this bytecode"
)
def test_no_kernel_needs_more_than_its_budget(codes):
    table, worse = budgets(), []
    names, capabilities = map(set, zip(*codes, strict=True))
    assert {name for name, _ in table} == set(kernels())
    assert {key for key in table if key[0] in names and key[1] in capabilities} == set(codes)
    for key, code in codes.items():
        budget = table[key]
        no_more = code.registers <= budget.registers and code.shared <= budget.shared
        no_less = all(
            getattr(code, name) >= getattr(budget, name)
            for name in ("occupancy", "ffma", "lds128", "ldg128")
        )
        if not (no_more and no_less):
            worse.append(f"{code}, budget {budget}")
    assert worse == []


def test_products_multiply_in_three_of_four_instructions_and_load_128_bits_of_shared_memory_at_a_time(
    codes,
):
    products = ("conv2d.forward", "conv2d.backward", "conv2d.backward_filter")
    for code in (code for code in codes.values() if code.kernel in products):
        assert code.ffma >= 75 and code.lds128 >= 8, (
            code
        )  # each step has one load for rows and one for columns


def test_no_two_threads_of_a_warp_meet_in_a_bank_of_shared_memory():
    for warp in range(tile.THREADS // 32):
        threads = range(32 * warp, 32 * warp + 32)
        by_step = [(thread & (tile.DEPTH - 1), thread >> tile.DEPTH_LOG2) for thread in threads]
        by_loader = [
            (thread >> tile.LOADERS_LOG2, thread & (tile.LOADERS - 1)) for thread in threads
        ]
        for stored in (by_step, by_loader):
            assert len({(step * tile.LEADING + loader) % 32 for step, loader in stored}) == 32
        for log2 in range(tile.LEAST_LOG2, tile.MOST_LOG2 + 1):
            for first in range(
                threads[0], threads[-1], 8
            ):  # a 128-bit load serves eight threads at a time
                for places in (
                    {thread >> log2 for thread in range(first, first + 8)},
                    {thread & ((1 << log2) - 1) for thread in range(first, first + 8)},
                ):
                    assert len({4 * place % 32 for place in places}) == len(places)
    assert tile.LEADING % 4 == 0  # every step begins where 128 bits can be loaded


def test_the_share_of_multiply_adds_is_that_of_the_loop_with_most_of_them():
    listing = "\n".join(
        [
            "        /*0000*/                   MOV R1, c[0x0][0x28] ;",
            ".L_x_1:",
            *["        /*0010*/                   FFMA R1, R2, R3, R1 ;"] * 18,
            "        /*0020*/               @P0 LDS.128 R4, [R5] ;",
            "        /*0030*/              @!P0 BRA `(.L_x_1) ;",
            *["        /*0040*/                   FFMA R1, R2, R3, R1 ;"] * 30,
            "        /*0050*/                   EXIT ;",
        ]
    )
    instructions = list(_instructions(listing))
    assert len(instructions) == 1 + 18 + 2 + 30 + 1 and instructions[19] == ("LDS.128", None)
    assert _ffma_share(instructions) == 90
