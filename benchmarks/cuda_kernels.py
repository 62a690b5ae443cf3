"""What every CUDA kernel needs of a card, from its machine code; no card is needed. Prints `tests/cuda/budgets.txt`.

Registers a thread, static shared memory a block, local memory, float64 instructions, theoretical occupancy, the share of
multiply-adds in the inner loop, and 128-bit loads, for compute capability 7.5, 8.0 and 9.0.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.cuda.machine_code import examine_all, table

if __name__ == "__main__":
    print(table(examine_all()))
