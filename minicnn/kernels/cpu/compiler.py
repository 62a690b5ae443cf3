"""Numba's compiler without the work that is done twice.

Numba optimizes and translates every function by itself, with all that it calls, and makes it
callable from Python and from C: for a kernel of twenty small functions most of the time goes there.
Here a function that only compiled ones call is handed over to its callers as it is, and is optimized
there, once.
"""

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _Library(JITCodeLibrary):
    """Code that is optimized only as a whole, not function by function first."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout


class _Part(_Library):
    """Code that is linked into its callers and is not compiled to machine code by itself."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class Entry(Compiler):
    """The compiler of a function that Python calls, or that is called by its address."""

    library: Any = _Library

    def define_pipelines(self) -> Any:
        codegen = self.state.targetctx.codegen()
        self.state.library = self.library(codegen, self.state.func_id.func_qualname)
        self.state.library.enable_object_caching()
        return super().define_pipelines()


class Inner(Entry):
    """The compiler of a function that only compiled functions call."""

    library = _Part

    def define_pipelines(self) -> Any:
        flags = self.state.flags
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        return super().define_pipelines()

    def _compile_core(self) -> Any:
        result = super()._compile_core()
        entry = {}.__getitem__  # Numba tells functions apart by it, and nobody calls it
        self.state.targetctx.insert_user_function(entry, result.fndesc, [result.library])
        return result._replace(entry_point=entry)
