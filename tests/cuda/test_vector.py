"""Kernels over flat vectors load 128 bits at a time: the table of budgets must demand it."""

from pathlib import Path

from minicnn import plugins

LOADS = {
    "axpy": 2,
    "square_sums": 1,
    "finish": 1,
    "add_parts": 2,
    "conv2d.add_forward": 1,
    "conv2d.add_backward": 1,
}


def test_no_kernel_over_vectors_may_lose_its_loads_of_128_bits():
    columns, *rows = (
        line.split()
        for line in Path(__file__).with_name("budgets.txt").read_text("utf-8").splitlines()
    )
    loads = {row[0]: int(row[columns.index("ldg128")]) for row in rows}
    for name, least in LOADS.items():
        assert loads[name] >= least, name
    for entry in plugins.entries():
        if entry.kind == "optimizer" and entry.name in loads:
            slots = len(getattr(plugins.find("optimizer", entry.name), "slots", ()))
            assert loads[entry.name] >= 2 + slots, entry.name  # weights, gradient and each slot
