"""The glTF importer against files that lie: each is explained, in little time and memory."""

import copy
import json
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from jrecon.model import gltf, gltf_file
from jrecon.model.gltf import read_gltf
from tests.gltf_reference import glb_bytes
from tests.model.small_gltf import read, rig


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_gltf(tmp_path / "none.glb")


def compressed(tree):
    tree["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    return "KHR_draco_mesh_compression, which is not supported"


def compressed_without_saying(tree):
    position = tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"]
    del tree["accessors"][position]["bufferView"]
    return "no plain positions"


def old_version(tree):
    tree["asset"]["version"] = "1.0"
    return "need 2.x"


def cycle(tree):
    tree["nodes"][5]["children"] = [0]
    return "cycle"


def two_parents(tree):
    tree["nodes"][0]["children"].append(2)
    return "two parents"


def huge_accessor(tree):
    tree["accessors"][1] |= {"count": 10**9}
    return "need 1.."


def empty_huge_accessor(tree):
    position = tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"]
    tree["accessors"][position] = dict(count=2**23, type="VEC3", componentType=5126)
    return "more than"


def many_targets(tree):
    primitive = tree["meshes"][0]["primitives"][0]
    primitive["targets"] = primitive["targets"] * 3000
    return "morph targets"


def beyond_buffer(tree):
    tree["bufferViews"][0]["byteLength"] = 10**6
    tree["accessors"][0]["count"] = 10**4
    return "ends? at byte"


def singular(tree):
    tree["nodes"][0]["scale"] = [0, 0, 0]
    return "singular"


def corner_outside(tree):
    tree["accessors"][0]["count"] = 3
    tree["meshes"][0]["primitives"][0]["targets"] = []
    return "need"


def no_triangles(tree):
    tree["meshes"][0]["primitives"][0]["mode"] = 0
    return "no triangles"


def no_weights(tree):
    del tree["meshes"][0]["primitives"][0]["attributes"]["WEIGHTS_0"]
    return "0 sets of skinning weights"


def wrong_type(tree):
    tree["nodes"][3]["translation"] = ["a", None, 2]
    return "need 3 numbers"


def far_away(tree):
    tree["nodes"][0]["translation"] = [1e300, 0, 0]
    return "damaged"


DAMAGES = (
    *(
        compressed,
        compressed_without_saying,
        old_version,
        cycle,
        two_parents,
        huge_accessor,
        empty_huge_accessor,
    ),
    *(many_targets, beyond_buffer, singular, corner_outside, no_triangles, no_weights),
    *(wrong_type, far_away),
)


@pytest.mark.parametrize("change", DAMAGES, ids=lambda change: change.__name__)
def test_damage_is_explained(tmp_path, rng, change):
    writer = rig(rng)
    message = change(writer.tree)
    with pytest.raises(ValueError, match=message) as failure:
        read(tmp_path, writer)
    assert str(tmp_path / "rig.glb") in str(failure.value)


@pytest.mark.parametrize("size", (0, 3, 11, 19, 40, 2000, -5))
def test_truncation_is_explained(tmp_path, rng, size):
    with pytest.raises(ValueError, match="truncated|neither a GLB"):
        read(tmp_path, rig(rng).glb()[:size])


def test_deep_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        read(tmp_path, glb_bytes(b"[" * 100_000, b""))


GOOD = rig(np.random.default_rng(0)).glb()
TREE = rig(np.random.default_rng(0))
FUZZ = hypothesis.settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


def survives(path, data):
    """Reading anything takes little time and ends in a model or a ValueError."""
    path.write_bytes(data)
    start = time.process_time()
    try:
        model = read_gltf(path)
    except ValueError:
        model = None
    assert time.process_time() - start < 5
    if model is not None:
        assert np.isfinite(np.asarray(model.vertices)).all()


@FUZZ
@hypothesis.given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, len(GOOD)),
)
def test_mutated_bytes(tmp_path, changes, size):
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    survives(tmp_path / "x.glb", bytes(data[: size if size % 3 == 0 else None]))


def places(value, path=()):
    """Every path in a JSON tree."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in entries if isinstance(value, dict | list) else ():
        yield (*path, key)
        if isinstance(entry, dict | list):
            yield from places(entry, (*path, key))


PLACES = list(places(TREE.tree))
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from([2**31, 2**63, 10**40, -(2**31), 5120, 5126, 1e308, -1e-308, 1e30]),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(["\ud800", "VEC3", "SCALAR", "MAT4"]),
    st.lists(st.integers(-1, 9), max_size=4),
    st.builds(dict),
)


@hypothesis.settings(FUZZ, max_examples=150)
@hypothesis.given(st.lists(st.tuples(st.sampled_from(PLACES), ODD), min_size=1, max_size=3))
def test_mutated_tree(tmp_path, changes):
    tree = copy.deepcopy(TREE.tree) | {"buffers": [{"byteLength": len(TREE.content)}]}
    for (*above, key), value in changes:
        owner = tree
        try:
            for step in above:
                owner = owner[step]
            owner[key] = value
        except (TypeError, KeyError, IndexError):
            continue
    survives(tmp_path / "x.glb", glb_bytes(json.dumps(tree).encode(), TREE.content))


def test_limits_are_consistent():
    assert 3 * gltf.MAX_VERTICES <= 2**31 and gltf.MAX_CORNERS <= gltf_file.MAX_ELEMENTS
