"""In the simulator, the tests use the quick one."""

import os

if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    from tests.cuda import simulator  # noqa: F401
