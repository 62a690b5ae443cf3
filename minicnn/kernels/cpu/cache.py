"""Numba's disk cache for the functions of this package.

Machine code is stamped with all sources that it depends on, where Numba alone looks at the file of
the function itself (numba#9483). Where the folder cannot be written, the disk is full or a file is
damaged, there is one warning, and compiled code lives as long as the process.
"""

import contextlib
import warnings

from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature

from minicnn.kernels.cpu.compiler import Entry
from minicnn.kernels.sources import digest_of


class _Cache(FunctionCache):
    def __init__(self, function):
        super().__init__(function)
        if function.__module__.startswith("minicnn."):  # a rule's module has a digest in its name
            name, stamp = self._impl.filename_base, digest_of(function.__module__)
            self._cache_file = IndexDataCacheFile(self.cache_path, name, stamp)

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a damaged pickle raises anything
            _warn(error)
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except Exception as error:  # a damaged index that cannot be made anew either
            _warn(error)


def cached(dispatcher):
    """``dispatcher``, made by `numba.njit`, with the disk cache."""
    dispatcher._cache = _cache_of(dispatcher.py_func)
    return dispatcher


def is_empty(dispatcher):
    """Whether the disk cache could keep ``dispatcher``, and does not."""
    try:
        return not dispatcher._cache._cache_file._load_index()
    except Exception:  # there is no cache, or its index is damaged
        return False


def cfunction(signature, **options):
    """Decorator: the function compiled for C's calling convention, from the disk cache if it is
    there; `numba.cfunc` with the cache of this module."""

    def compile(function):
        compiled = CFunc(function, normalize_signature(signature), {}, options, Entry)
        compiled._cache = _cache_of(function)
        compiled.compile()
        return compiled

    return compile


def _cache_of(function):
    try:
        return _Cache(function)
    except RuntimeError as error:  # no folder can be written
        _warn(error)
        return NullCache()


_warned: list[None] = []


def _warn(error):
    if not _warned:
        _warned.append(None)
        warnings.warn(
            f"the disk cache of compiled code fails ({error!r}): what it does not hold is compiled "
            "again in each process; NUMBA_CACHE_DIR names a folder that can be written",
            RuntimeWarning,
            stacklevel=3,
        )
