"""Pickles of model files, read without running anything in them.

Unpickling is running a program: whatever a pickle names, `pickle.load` imports and calls. The
SMPL-family `.pkl` files hold nothing but arrays, some of them inside SciPy sparse matrices or
inside objects of the abandoned `chumpy` package. This reader knows those few names and refuses all
others; it is an allow-list, because lists of what is dangerous have always had gaps.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

# The largest file of the family, SMPL-X with all its components, has about 0.5 GB.
MAX_BYTES = 2 << 30


class _StandIn:
    """Takes the place of a SciPy or chumpy object: keeps its state and runs nothing of it."""

    def __init__(self, *_: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        # Classes with __slots__ pickle a pair of dictionaries.
        parts = state if isinstance(state, tuple) else (state,)
        self.state = {}
        for part in parts:
            if isinstance(part, dict):
                self.state.update(part)


class _SparseColumns(_StandIn):
    matrix: Callable[..., Any] = sparse.csc_matrix


class _SparseRows(_StandIn):
    matrix: Callable[..., Any] = sparse.csr_matrix


class _Chumpy(_StandIn):
    pass


def _begin_array(kind: Any, shape: Any, typecode: Any) -> np.ndarray:
    """NumPy's `_reconstruct` for plain arrays: an empty one, whose state follows."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"the pickle builds an array of type {kind!r}")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """NumPy's `_frombuffer`: how protocol 5 writes a contiguous array."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or order not in ("C", "F"):
        raise pickle.UnpicklingError("the pickle builds an array that is not of numbers")
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _begin_object(kind: Any, base: Any, state: Any) -> Any:
    """`copyreg._reconstructor`: how protocols 0 and 1 begin an object."""
    if not (isinstance(kind, type) and issubclass(kind, _StandIn) and base is object):
        raise pickle.UnpicklingError(f"the pickle builds an object of type {kind!r}")
    return kind()


def _scalar(dtype: Any, data: Any = None) -> Any:
    """NumPy's `scalar` for numbers and text."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes):
        raise pickle.UnpicklingError("the pickle builds a scalar that is not a number")
    return np.frombuffer(data, dtype, count=1)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, which is how old protocols spell bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("the pickle encodes something that is not latin1 text")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("copy_reg", "_reconstructor"): _begin_object,
    ("copyreg", "_reconstructor"): _begin_object,
}
for _builtins in ("builtins", "__builtin__"):
    for _type in (object, set, frozenset):
        _ALLOWED[_builtins, _type.__name__] = _type
for _core in ("core", "_core"):
    _ALLOWED[f"numpy.{_core}.multiarray", "_reconstruct"] = _begin_array
    _ALLOWED[f"numpy.{_core}.multiarray", "scalar"] = _scalar
    _ALLOWED[f"numpy.{_core}.numeric", "_frombuffer"] = _from_buffer
for _layout, _stand_in in (("csc", _SparseColumns), ("csr", _SparseRows)):
    for _module in (_layout, f"_{_layout}"):
        for _kind in ("matrix", "array"):
            _ALLOWED[f"scipy.sparse.{_module}", f"{_layout}_{_kind}"] = _stand_in


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name.split(".")[0] == "chumpy":
            return _Chumpy
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the pickle wants to call {module_name}.{global_name}"
            ) from None


def read_pickle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dictionary in a model's `.pkl` file: arrays, numbers and texts by name.

    Sparse matrices become dense, chumpy objects become the arrays that they wrap, and what holds
    neither is left out. Pickles of Python 2 are read too.

    Raises:
      ValueError: the pickle names anything but arrays (nothing of it has run), is damaged, too
        large, or holds no dictionary.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(
            f"{path}: {size / 1e9:.1f} GB, the limit for a model is {MAX_BYTES / 1e9:.1f} GB; "
            "is this a model file?"
        )
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: {error}. Only arrays are read from a pickle and nothing in it was run. If "
            "you trust its source, load it with that package and save its arrays with numpy.savez."
        ) from error
    # A damaged pickle can fail anywhere in the interpreter of its opcodes.
    except Exception as error:
        raise ValueError(
            f"{path}: not a readable pickle ({type(error).__name__}: {error}); it is truncated or "
            "damaged, copy or download it again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: the pickle holds a {type(content).__name__}, need a dictionary of arrays."
        )
    found = {str(key): _plain(path, str(key), value) for key, value in content.items()}
    return {key: value for key, value in found.items() if value is not None}


def _plain(path: Path, key: str, value: Any) -> Any:
    """Arrays, numbers and texts as they are; wrapped arrays unwrapped; None for all else."""
    if isinstance(value, np.ndarray):
        return None if value.dtype.hasobject else value
    if isinstance(value, bool | int | float | str | np.generic):
        return value
    if isinstance(value, list | tuple):
        return _numbers(value)
    if isinstance(value, _SparseColumns | _SparseRows):
        return _dense(path, key, value)
    if isinstance(value, _Chumpy):
        return _chumpy_array(path, key, value)
    return None


def _numbers(value: Any) -> np.ndarray | None:
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array if array.dtype.kind in "biufU" else None


def _dense(path: Path, key: str, value: _StandIn) -> np.ndarray:
    state = value.state
    shape = state.get("_shape", state.get("shape"))
    try:
        parts = tuple(np.asarray(state[name]) for name in ("data", "indices", "indptr"))
        rows, columns = (int(n) for n in shape)  # type: ignore[union-attr]
        if not 0 <= rows * columns * 8 <= MAX_BYTES:
            raise ValueError(f"{rows} x {columns} entries")
        matrix = type(value).matrix(parts, shape=(rows, columns))  # type: ignore[attr-defined]
        # Indices are read from the file: without this check they may point outside the matrix.
        matrix.check_format(full_check=True)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path}: {key} is a damaged sparse matrix ({error}).") from error
    return matrix.toarray()


def _chumpy_array(path: Path, key: str, value: Any, depth: int = 0) -> np.ndarray:
    """The array in a chumpy object: `x` of a `Ch`, or chosen entries `idxs` of `a` (`Select`)."""
    state = value.state if isinstance(value, _Chumpy) else {"x": value}
    inner = state.get("x")
    if isinstance(inner, np.ndarray) and not inner.dtype.hasobject:
        return inner
    if {"a", "idxs"} <= set(state) and depth < 8:
        source = _chumpy_array(path, key, state["a"], depth + 1).ravel()
        index = np.asarray(state["idxs"])
        if (
            index.dtype.kind in "iu"
            and index.size
            and 0 <= index.min() <= index.max() < source.size
        ):
            shape = state.get("preferred_shape")
            chosen = source[index.ravel()]
            return chosen.reshape(shape) if shape is not None else chosen
    raise ValueError(
        f"{path}: {key} is a chumpy object with the fields {sorted(state)}, need one that wraps an "
        "array; load it with chumpy and save its arrays with numpy.savez."
    )
