"""Whether a rule can be used on CUDA, found out without a GPU: it compiles, and in the simulator
it equals the CPU.

Numba reads whether to simulate when it is imported, so each is done in a process of its own:
``python -m minicnn.testing.on_cuda``, which reads where the rule is from stdin and prints what it
found.
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

from minicnn.rules import ActivationRule, LossRule, StepRule
from minicnn.testing.checks import CheckFailed, CheckSkipped

_CAPABILITY = (7, 5)  # of the oldest GPU that CUDA 13 compiles for


def works_on_cuda(rule: Any) -> str:
    """Compile the rule, and compare it with the CPU's in the simulator; skipped where the packages
    are not installed."""
    if importlib.util.find_spec("numba_cuda") is None:
        raise CheckSkipped("numba-cuda is not installed: pip install 'minicnn-numba[cuda]'")
    functions = {LossRule: "row", StepRule: "step", ActivationRule: "value"}
    function = getattr(rule, functions.get(type(rule), "update"))
    module, file = function.__module__, function.__code__.co_filename
    if rule.name not in {
        getattr(value, "name", None) for value in vars(sys.modules.get(module, os)).values()
    }:
        raise CheckSkipped(
            f"the rule is no name of its module {module}, where another process would find it"
        )
    request = {
        "path": sys.path,
        "module": module,
        "file": file,
        "name": rule.name,
        "kind": type(rule).__name__,
    }
    found = []
    for simulate in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-m", "minicnn.testing.on_cuda"],
            input=json.dumps(request),
            text=True,
            env={**os.environ, "NUMBA_ENABLE_CUDASIM": simulate},
            capture_output=True,
        )
        if done.returncode:
            raise CheckFailed(
                (done.stderr.strip().splitlines() or ["the process ended without a word"])[-1]
            )
        answer = json.loads(done.stdout.splitlines()[-1])
        if answer["result"] != "passed":
            raise {"skipped": CheckSkipped, "failed": CheckFailed}[answer["result"]](
                answer["detail"]
            )
        found.append(answer["detail"])
    return "; ".join(found)


def main() -> None:
    """Answer the request on stdin."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    try:
        cuda = importlib.import_module("numba.cuda")
        rule = _found(request)
        detail = _simulated(rule) if cuda.config.ENABLE_CUDASIM else _compiled(cuda, rule)
        answer = {"result": "passed", "detail": detail}
    except RuntimeError as error:  # the toolkit is not there
        answer = {"result": "skipped", "detail": " ".join(str(error).split())}
    except Exception as error:  # whatever the rule's own code raises
        answer = {
            "result": "failed",
            "detail": " ".join(str(error).split()) or type(error).__name__,
        }
    print(json.dumps(answer))


def _found(request: dict[str, Any]) -> Any:
    """The rule, by its name in its module."""
    spec = importlib.util.find_spec(request["module"])
    if spec is None or spec.origin != request["file"]:
        spec = importlib.util.spec_from_file_location(request["module"], request["file"])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[request["module"]] = module
    spec.loader.exec_module(module)
    for value in vars(module).values():
        if type(value).__name__ == request["kind"] and value.name == request["name"]:
            return value
    raise CheckFailed(f"{request['file']} has no {request['kind']} {request['name']}")


def _compiled(cuda: Any, rule: Any) -> str:
    from minicnn.kernels.cuda import rules

    # Numba asks for a GPU when a rule calls what it compiles apart; that there is none does not
    # matter here.
    gpu = SimpleNamespace(compute_capability=_CAPABILITY)
    importlib.import_module("numba.cuda.dispatcher").get_current_device = lambda: gpu  # type: ignore[attr-defined]
    found = "compiles"
    if isinstance(rule, ActivationRule):
        from minicnn.kernels.cuda.launches import OPERATION

        launches = rules.rule_launches(rule) or {}
        kernels = [(one.kernel, OPERATION) for part in launches.values() for one in part]
    else:
        made = [
            rules.compile_loss(part) if isinstance(part, LossRule) else rules.compile_update(part)
            for part in (rule.bases if isinstance(rule, StepRule) else (rule,))
            if not isinstance(part, str)
        ]  # a name is checked by itself
        kernels = [(kernel.function, kernel.signature) for kernel in made]
    for kernel, signature in kernels:
        if ".f64" in cuda.compile_ptx(kernel, signature, cc=_CAPABILITY)[0]:
            found = "compiles, but with float64, which is slow there: write 2.0 and not 2, and no int in arithmetic"
    return found


def _simulated(rule: Any) -> str:
    from minicnn.backends import cuda
    from minicnn.testing.selftest import layer_equals, loss_equals, updates_equal

    equal: Any = {LossRule: loss_equals, ActivationRule: layer_equals}.get(
        type(rule), updates_equal
    )
    return f"in the simulator {equal(cuda, rule, np.float32)}"


if __name__ == "__main__":
    main()
