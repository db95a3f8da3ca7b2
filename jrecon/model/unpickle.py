"""Pickles of model files, read without running anything in them.

Unpickling is running a program: whatever a pickle names, `pickle.load` imports and calls. The
SMPL-family `.pkl` files hold nothing but arrays, some of them inside SciPy sparse matrices or
inside objects of the abandoned `chumpy` package. This reader knows those few names and refuses all
others; it is an allow-list, because lists of what is dangerous have always had gaps.

No name is ever imported, not even an allowed one. Each stands for an inert record of what the
pickle says about it; arrays are made from the records afterwards, with every length checked. NumPy
itself must not see the file: a forged dtype makes `ndarray.__setstate__` take bytes for pointers.
"""

from __future__ import annotations

import math
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

# The largest file of the family, SMPL-X with all its components, has about 0.5 GB.
MAX_BYTES = 2 << 30

# Types of plain numbers and texts, as `numpy.dtype` is called in pickles: f8, i4, b1, U5 ...
_DTYPE = re.compile(r"[biufcSU]\d{1,6}")


class _Record:
    """What a pickle says about an object: how it is called, and the state it is given."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: Any) -> Any:
        record = object.__new__(cls)
        record.arguments = arguments
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def fields(self) -> dict[str, Any]:
        """The state of an ordinary object: its attributes by name."""
        # Classes with __slots__ pickle a pair of dictionaries.
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        return {
            name: value for part in parts if isinstance(part, dict) for name, value in part.items()
        }


class _Ignored(_Record):
    """Known, harmless and of no use: sets of dirty flags inside chumpy objects."""


class _Dtype(_Record):
    pass


class _Array(_Record):
    """`numpy.ndarray`: made by `_reconstruct`, and all that matters is in its state."""


class _FlatArray(_Record):
    """NumPy's `_frombuffer`: how protocol 5 writes a contiguous array."""


class _Scalar(_Record):
    pass


class _SparseColumns(_Record):
    pass


class _SparseRows(_Record):
    pass


class _Chumpy(_Record):
    pass


class _Bytes(_Record):
    """How protocols before 3 spell bytes: `_codecs.encode` of a text, or `bytes()` for none."""

    def __new__(cls, text: Any = "", encoding: Any = "latin1") -> Any:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("the pickle encodes something that is not latin1 text")
        return text.encode("latin1")


class _Plain(_Record):
    """`copyreg._reconstructor`: how protocols 0 and 1 begin an object."""

    def __new__(cls, kind: Any, base: Any, state: Any) -> Any:
        if not (isinstance(kind, type) and issubclass(kind, _Record)):
            raise pickle.UnpicklingError(f"the pickle builds an object of type {kind!r}")
        return kind()


_ALLOWED: dict[tuple[str, str], type[_Record]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Bytes,
    ("copy_reg", "_reconstructor"): _Plain,
    ("copyreg", "_reconstructor"): _Plain,
}
for _builtins in ("builtins", "__builtin__"):
    _ALLOWED[_builtins, "bytes"] = _Bytes
    for _name in ("object", "set", "frozenset"):
        _ALLOWED[_builtins, _name] = _Ignored
for _core in ("core", "_core"):
    _ALLOWED[f"numpy.{_core}.multiarray", "_reconstruct"] = _Array
    _ALLOWED[f"numpy.{_core}.multiarray", "scalar"] = _Scalar
    _ALLOWED[f"numpy.{_core}.numeric", "_frombuffer"] = _FlatArray
for _layout, _record in (("csc", _SparseColumns), ("csr", _SparseRows)):
    for _module in (_layout, f"_{_layout}"):
        for _kind in ("matrix", "array"):
            _ALLOWED[f"scipy.sparse.{_module}", f"{_layout}_{_kind}"] = _record


# The interpreter of the standard library that is in Python. The one in C trusts the file with
# sizes: twenty bytes make it fill gigabytes with an empty memo table. `Any`: stubs omit its parts.
_Interpreter: Any = pickle._Unpickler


class _RecordUnpickler(_Interpreter):
    """The opcodes of a pickle, with records in place of objects."""

    # Copied, so that what is changed here stays here.
    dispatch: dict[int, Any] = dict(_Interpreter.dispatch)
    # Names by number, objects from outside the file: nothing that a model needs.
    for _opcode in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID):
        del dispatch[_opcode[0]]
    # A bytearray is allocated before it is read, bytes are not. Sets may only hold what can be
    # hashed, and hashing a deeply nested tuple overflows the stack; nothing here needs a set.
    dispatch[pickle.BYTEARRAY8[0]] = dispatch[pickle.BINBYTES8[0]]
    dispatch[pickle.EMPTY_SET[0]] = dispatch[pickle.EMPTY_LIST[0]]
    dispatch[pickle.ADDITEMS[0]] = dispatch[pickle.APPENDS[0]]
    dispatch[pickle.FROZENSET[0]] = dispatch[pickle.TUPLE[0]]

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name.split(".")[0] == "chumpy":
            return _Chumpy
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the pickle wants to call {module_name}.{global_name}"
            ) from None

    def _set_items(self, target: Any, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        if not isinstance(target, dict) or not all(isinstance(k, str | bytes | int) for k in keys):
            raise pickle.UnpicklingError("the pickle fills a dictionary with unusual keys")
        target.update(zip(keys, values, strict=True))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set_items(self.stack[-1], items)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._set_items(self.stack[-1], items)

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict


def read_pickle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dictionary in a model's `.pkl` file: arrays, numbers and texts by name.

    Sparse matrices become dense, chumpy objects become the arrays that they wrap, and what holds
    neither is left out. Pickles of Python 2 are read too. Arrays are read-only.

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
            content = _RecordUnpickler(file, encoding="latin1").load()
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
        kind = type(content).__name__.lstrip("_").lower()
        raise ValueError(f"{path}: the pickle holds a {kind}, need a dictionary of arrays.")
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = key.decode("latin1") if isinstance(key, bytes) else str(key)
        try:
            plain = _plain(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(
                f"{path}: {name}: {error}; load the file with the package that wrote it and save "
                "its arrays with numpy.savez, or download it again."
            ) from error
        if plain is not None:
            found[name] = plain
    return found


def _plain(value: Any) -> Any:
    """An array, number or text; None for all else, objects inside arrays included."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return _from_list(value)
    if isinstance(value, _Array):
        return _from_state(value.state)
    if isinstance(value, _FlatArray):
        data, dtype, shape, order = value.arguments
        return _from_bytes(data, dtype, shape, order)
    if isinstance(value, _Scalar):
        dtype, data = value.arguments
        scalar = _from_bytes(data, dtype, ())
        return None if scalar is None else scalar[()]
    if isinstance(value, _SparseColumns | _SparseRows):
        return _dense(value)
    if isinstance(value, _Chumpy):
        return _chumpy_array(value)
    return None


def _from_state(state: Any) -> np.ndarray | None:
    """What `ndarray.__setstate__` is given: version, shape, dtype, Fortran order, bytes."""
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise ValueError("a damaged array")
    shape, dtype, fortran, data = state[-4:]
    return _from_bytes(data, dtype, shape, "F" if fortran else "C")


def _from_bytes(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray | None:
    kind = _dtype(dtype)
    if kind is None:
        return None
    if isinstance(data, str):
        data = data.encode("latin1")
    if not isinstance(data, bytes) or not isinstance(shape, tuple) or order not in ("C", "F"):
        raise ValueError("a damaged array")
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"an array of shape {shape}")
    if math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} and type {kind} in {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(shape, order=order)


def _dtype(record: Any) -> np.dtype | None:
    """A plain type; None for objects, records, dates and whatever else dtypes can be."""
    if not isinstance(record, _Dtype) or not record.arguments:
        raise ValueError("an array without type")
    name = record.arguments[0]
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        return None
    state = record.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    return np.dtype(name).newbyteorder(order if order in ("<", ">") else "=")


def _from_list(value: Any) -> np.ndarray | None:
    """A list of numbers or texts, or of such lists; None for any other.

    The depth is bounded because lists may hold the same list many times: a few hundred bytes
    describe more numbers than any memory holds.
    """
    rows = [row for row in value if isinstance(row, list | tuple)]
    entries = [entry for row in rows for entry in row] if rows else value
    if (rows and len(rows) != len(value)) or len({len(row) for row in rows}) > 1:
        return None
    if not all(isinstance(entry, bool | int | float | str) for entry in entries):
        return None
    array = np.asarray(value)
    return array if array.dtype.kind in "biufU" else None


def _dense(record: _Record) -> np.ndarray:
    fields = record.fields
    shape = fields.get("_shape", fields.get("shape"))
    parts = tuple(_plain(fields.get(name)) for name in ("data", "indices", "indptr"))
    if not all(isinstance(part, np.ndarray) for part in parts) or not isinstance(shape, tuple):
        raise ValueError(f"a sparse matrix with the fields {sorted(map(str, fields))}")
    if len(shape) != 2 or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"a sparse matrix of shape {shape}")
    if math.prod(shape) * 8 > MAX_BYTES:
        raise ValueError(f"a sparse matrix of {shape[0]} x {shape[1]} entries")
    make = sparse.csc_matrix if isinstance(record, _SparseColumns) else sparse.csr_matrix
    try:
        matrix = make(parts, shape=shape)
        # Indices are read from the file: without this check they may point outside the matrix.
        matrix.check_format(full_check=True)
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"a damaged sparse matrix ({error})") from error
    return matrix.toarray()


def _chumpy_array(value: Any, depth: int = 0) -> np.ndarray:
    """The array in a chumpy object.

    That is `x` of a `Ch`; entries `idxs` of `a` in a `Select`; `a` as `newshape` in a `Reshape`.
    """
    if not isinstance(value, _Chumpy):
        array = _plain(value)
        if isinstance(array, np.ndarray):
            return array
        raise ValueError("a chumpy object without an array in it")
    fields = value.fields
    if depth < 8 and isinstance(fields.get("x"), _Record):
        return _chumpy_array(fields["x"], depth + 1)
    if depth < 8 and {"a", "newshape"} <= set(fields):
        return _chumpy_array(fields["a"], depth + 1).reshape(fields["newshape"])
    if depth < 8 and {"a", "idxs"} <= set(fields):
        source, index = _chumpy_array(fields["a"], depth + 1).ravel(), _plain(fields["idxs"])
        if not isinstance(index, np.ndarray) or index.dtype.kind not in "iu":
            raise ValueError("a chumpy object that selects by other than integers")
        if index.size and not 0 <= index.min() <= index.max() < source.size:
            raise ValueError("a chumpy object that selects entries that are not there")
        chosen = source[index.ravel()]
        shape = fields.get("preferred_shape")
        return chosen if shape is None else chosen.reshape(shape)
    raise ValueError(
        f"a chumpy object with the fields {sorted(map(str, fields))}, need one that wraps an array"
    )
