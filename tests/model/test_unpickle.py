"""The allow-list unpickler: what it reads, and that what it refuses has not run."""

import pickle
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
    for module_name, class_name in (("chumpy.ch", "Ch"), ("chumpy.reordering", "Select")):
        module = types.ModuleType(module_name)
        made = type(class_name, (), {"__module__": module_name})
        setattr(module, class_name, made)
        monkeypatch.setitem(sys.modules, module_name, module)
        classes[class_name] = made
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
    }
    got = read_pickle(write(tmp_path / "m.pkl", content, protocol))
    assert set(got) == set(content)
    for key in ("floats", "fortran", "big_endian", "scalar", "list"):
        np.testing.assert_array_equal(got[key], content[key])
    np.testing.assert_array_equal(got["sparse"], np.eye(3))
    np.testing.assert_array_equal(got["rows"], np.eye(2))
    assert got["number"] == 3 and got["text"] == "female"


def test_chumpy_objects_become_their_arrays(tmp_path, chumpy):
    inner = chumpy("Ch", x=np.arange(6.0), dterms=["x"])
    content = {
        "v_template": chumpy("Ch", x=np.ones((2, 3))),
        "shapedirs": chumpy("Select", a=inner, idxs=np.array([5, 0]), preferred_shape=(1, 2)),
    }
    path = write(tmp_path / "m.pkl", content)
    for name in [name for name in sys.modules if name.startswith("chumpy")]:
        del sys.modules[name]
    got = read_pickle(path)
    np.testing.assert_array_equal(got["v_template"], np.ones((2, 3)))
    np.testing.assert_array_equal(got["shapedirs"], [[5.0, 0.0]])


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
