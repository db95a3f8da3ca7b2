"""The allow-list unpickler: what it reads, and that what it refuses has not run."""

import copyreg
import pickle
import struct
import sys
import types

import numpy as np
import pytest
from scipy import sparse

from jrecon.model.unpickle import read_pickle


def write(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.fixture
def chumpy(monkeypatch):
    """Classes that pickle as chumpy's do."""
    classes = {}
    for module_name, names in (("chumpy.ch", ["Ch"]), ("chumpy.reordering", ["Select", "Reshape"])):
        module = types.ModuleType(module_name)
        monkeypatch.setitem(sys.modules, module_name, module)
        for class_name in names:
            classes[class_name] = type(class_name, (), {"__module__": module_name})
            setattr(module, class_name, classes[class_name])
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))

    def make(class_name, **state):
        one = classes[class_name]()
        one.__dict__.update(state)
        return one

    return make


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_numbers_and_texts_are_read_in_every_protocol(tmp_path, protocol):
    content = {
        "floats": np.linspace(0, 1, 6).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
        "scalar": np.float64(2.5),
        "number": 3,
        "text": "female",
        "list": [1, 2, 3],
        "sparse": sparse.csc_matrix(np.eye(3)),
        "rows": sparse.csr_matrix(np.eye(2)),
        "flags": np.array([True, False]),
        "words": np.array(["one", "three"]),
        "empty": np.zeros((4, 3, 0)),
        b"bytes_key": np.arange(2, dtype=np.uint32),
    }
    got = read_pickle(write(tmp_path / "m.pkl", content, protocol))
    content["bytes_key"] = content.pop(b"bytes_key")
    assert set(got) == set(content)
    arrays = "floats fortran big_endian scalar list flags words empty bytes_key".split()
    for key in arrays:
        np.testing.assert_array_equal(got[key], content[key], strict=key not in ("list", "scalar"))
    np.testing.assert_array_equal(got["sparse"], np.eye(3))
    np.testing.assert_array_equal(got["rows"], np.eye(2))
    assert got["number"] == 3 and got["text"] == "female"


def python2_array(array, binary):
    """The opcodes that Python 2 and NumPy 1 wrote: byte strings as text, `numpy.core`."""
    data = array.tobytes()
    if binary:
        text = b"T" + struct.pack("<i", len(data)) + data
    else:
        text = b"S" + repr(data)[1:].encode() + b"\n"
    shape = b"(" + b"".join(b"I%d\n" % size for size in array.shape) + b"t"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
        + shape
        + b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
        + text
        + b"tb"
    )


@pytest.mark.parametrize("binary", [False, True])
def test_pickles_of_python_2_are_read(tmp_path, rng, binary):
    array = rng.normal(size=(3, 2))
    plain, wrapped = python2_array(array, binary), python2_array(-array, binary)
    chumpy = b"ccopy_reg\n_reconstructor\n(cchumpy.ch\nCh\nc__builtin__\nobject\nNtR(dS'x'\n"
    dirty = b"S'_dirty_vars'\nc__builtin__\nset\n((lS'x'\natRs"
    opcodes = b"(dS'weights'\n" + plain + b"sS'v_template'\n" + chumpy + wrapped + b"s" + dirty
    (tmp_path / "m.pkl").write_bytes(opcodes + b"bs.")
    got = read_pickle(tmp_path / "m.pkl")
    np.testing.assert_array_equal(got["weights"], array)
    np.testing.assert_array_equal(got["v_template"], -array)


def test_chumpy_objects_become_their_arrays(tmp_path, chumpy):
    inner = chumpy("Ch", x=np.arange(6.0), dterms=["x"])
    content = {
        "v_template": chumpy("Ch", x=np.ones((2, 3))),
        "shapedirs": chumpy("Select", a=inner, idxs=np.array([5, 0]), preferred_shape=(1, 2)),
        "posedirs": chumpy("Reshape", a=inner, newshape=(3, -1)),
    }
    path = write(tmp_path / "m.pkl", content)
    for name in [name for name in sys.modules if name.startswith("chumpy")]:
        del sys.modules[name]
    got = read_pickle(path)
    np.testing.assert_array_equal(got["v_template"], np.ones((2, 3)))
    np.testing.assert_array_equal(got["shapedirs"], [[5.0, 0.0]])
    np.testing.assert_array_equal(got["posedirs"], [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])


def test_a_chumpy_object_without_array_is_explained(tmp_path, chumpy):
    path = write(tmp_path / "m.pkl", {"v": chumpy("Ch", y=1)})
    with pytest.raises(ValueError, match=r"chumpy object with the fields \['y'\]"):
        read_pickle(path)


def call(function, *arguments):
    class Call:
        def __reduce__(self):
            return function, arguments

    return Call()


EVIL = {
    "system": lambda mark: call(__import__("os").system, f"touch {mark}"),
    "eval": lambda mark: call(eval, f"open({str(mark)!r}, 'w')"),
    "exec": lambda mark: call(exec, f"open({str(mark)!r}, 'w')"),
    "open": lambda mark: call(open, str(mark), "w"),
    "getattr": lambda mark: call(getattr, "text", "format"),
    "import": lambda mark: call(__import__, "antigravity"),
    "numpy function": lambda mark: call(np.savetxt, str(mark), [1.0]),
    "nested": lambda mark: {"deep": [call(open, str(mark), "w")]},
    "partial": lambda mark: call(__import__("functools").partial, open, str(mark), "w"),
}


@pytest.mark.parametrize("kind", EVIL)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_calls_are_refused_and_have_not_run(tmp_path, kind, protocol):
    mark = tmp_path / "ran"
    path = write(tmp_path / "m.pkl", {"v_template": EVIL[kind](mark)}, protocol)
    with pytest.raises(ValueError, match="wants to call .* nothing in it was run"):
        read_pickle(path)
    assert not mark.exists()


def number(value):
    return b"J" + struct.pack("<i", value)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


# dtype("O") copied and given the flags of a plain type: NumPy would take the bytes for pointers.
FORGED = (
    b"cnumpy\ndtype\n"
    + (text(b"O") + b"\x89\x88\x87R")
    + (b"(" + number(4) + text(b"|") + b"NNN" + number(8) + number(8) + number(0) + b"tb")
)
INNER = b"(" + number(1) + (b"K\x02\x85" + FORGED + b"\x89" + b"C\x10" + 16 * b"A") + b"t"
LIST_OF_LISTS = b"]q\x00(K\x01K\x01e" + b"".join(
    b"0](" + 10 * (b"h" + bytes([depth])) + b"e" + b"q" + bytes([depth + 1]) for depth in range(12)
)
HOSTILE = {
    "forged scalar": b"cnumpy.core.multiarray\nscalar\n(" + FORGED + b"C\x08AAAAAAAAtR",
    "forged array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    + (INNER + b"b"),
    "memo of gigabytes": b"Nr\xff\xff\xff\x7f",
    "bytearray of gigabytes": b"\x96" + struct.pack("<Q", 1 << 36) + b"few",
    "bytes of gigabytes": b"\x8e" + struct.pack("<Q", 1 << 36) + b"few",
    "array of gigabytes": b"cnumpy\nndarray\n(" + number(1 << 30) + b"K\x08\x86tR",
    "list of lists of lists": LIST_OF_LISTS,
    "deep tuple as a key": b"}N" + 200_000 * b"\x85" + b"Ns",
    "deep tuple in a set": b"\x8f(N" + 200_000 * b"\x85" + b"\x90",
    "state of a class": b"cchumpy.ch\nCh\n}X\x01\x00\x00\x00xK\x01sb",
    "state of a number": b"K\x01}X\x01\x00\x00\x00xK\x01sb",
    "object without state": b"cchumpy.ch\nCh\n)\x81",
    "sparse without state": b"cscipy.sparse.csc\ncsc_matrix\n)\x81",
    "scalar without data": b"cnumpy.core.multiarray\nscalar\n)R",
    "array without state": b"cnumpy\nndarray\n)R",
    "number that is called": b"K\x01)R",
    "persistent object": b"K\x01Q",
    "buffer from outside": b"\x97",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_opcodes_are_harmless(tmp_path, kind):
    opcodes = b"\x80\x04}" + text(b"a") + HOSTILE[kind] + b"s."
    (tmp_path / "m.pkl").write_bytes(opcodes)
    try:
        got = read_pickle(tmp_path / "m.pkl")
    except ValueError as error:
        assert "m.pkl" in str(error)
    else:
        assert got.get("a") is None


def test_names_by_number_are_refused(tmp_path):
    """A registered extension code may be cached by the interpreter and skip the check of names."""
    copyreg.add_extension("builtins", "print", 0x7FFF)
    try:
        path = write(tmp_path / "m.pkl", {"a": print}, protocol=2)
        assert b"print" not in path.read_bytes()
        with pytest.raises(ValueError, match="not a readable pickle"):
            read_pickle(path)
    finally:
        copyreg.remove_extension("builtins", "print", 0x7FFF)


def test_reading_leaves_the_allowed_names_as_they_were(tmp_path):
    """A pickle may try to give state to what it is handed, for the next file to trip over."""
    for name in (b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"cnumpy.core.multiarray\nscalar\n"):
        state = b"N}" + text(b"__defaults__") + b"NsX\x01\x00\x00\x00xNs\x86b"
        (tmp_path / "m.pkl").write_bytes(b"\x80\x02}" + text(b"a") + name + state + b"s.")
        with pytest.raises(ValueError, match="not a readable pickle"):
            read_pickle(tmp_path / "m.pkl")
    got = read_pickle(write(tmp_path / "n.pkl", {"a": np.arange(3.0)}))
    np.testing.assert_array_equal(got["a"], np.arange(3.0))


def test_dotted_names_do_not_reach_behind_the_list(tmp_path):
    """Protocol 4 can name attributes of attributes: numpy / ndarray.__class__ ..."""
    opcodes = b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93."
    (tmp_path / "m.pkl").write_bytes(opcodes)
    with pytest.raises(ValueError, match=r"numpy.ndarray.__init__"):
        read_pickle(tmp_path / "m.pkl")


def test_object_arrays_and_subclasses_are_left_out_or_refused(tmp_path):
    got = read_pickle(write(tmp_path / "a.pkl", {"a": np.array([{}, 1], object), "b": 1}))
    assert set(got) == {"b"}
    masked = np.ma.masked_array([1.0], [True])
    with pytest.raises(ValueError, match="wants to call numpy.ma"):
        read_pickle(write(tmp_path / "b.pkl", {"a": masked}))


def test_sparse_indices_that_point_outside_are_refused(tmp_path):
    matrix = sparse.csc_matrix(np.eye(3))
    matrix.indices[1] = 10**6
    with pytest.raises(ValueError, match="damaged sparse matrix"):
        read_pickle(write(tmp_path / "m.pkl", {"J_regressor": matrix}))


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_pickles_are_explained(tmp_path, keep):
    data = pickle.dumps({"a": np.zeros(100)})
    (tmp_path / "m.pkl").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match="truncated or damaged|wants to call|m.pkl"):
        read_pickle(tmp_path / "m.pkl")


def test_flipped_bytes_never_escape_as_other_errors(tmp_path, rng):
    data = pickle.dumps({"a": np.arange(20.0), "s": sparse.csc_matrix(np.eye(3))}, 2)
    for _ in range(300):
        bad = bytearray(data)
        for position in rng.integers(0, len(data), size=2):
            bad[position] = rng.integers(0, 256)
        (tmp_path / "m.pkl").write_bytes(bad)
        try:
            read_pickle(tmp_path / "m.pkl")
        except ValueError:
            pass


def test_not_a_dictionary(tmp_path):
    with pytest.raises(ValueError, match="holds a list, need a dictionary"):
        read_pickle(write(tmp_path / "m.pkl", [1, 2]))


def test_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("jrecon.model.unpickle.MAX_BYTES", 10)
    with pytest.raises(ValueError, match="the limit for a model"):
        read_pickle(write(tmp_path / "m.pkl", {"a": np.zeros(100)}))
