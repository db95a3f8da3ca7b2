"""The native model format: round trips, versions, and damage of every kind."""

import io
import zipfile

import jax
import numpy as np
import pytest

from jrecon.model.formats import load_model, read_npz, save_model
from tests.model.small_models import random_model


def assert_same_model(got, want, atol=0.0):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize("corrective", ["none", "rotation", "quaternion"])
def test_round_trip_is_exact(tmp_path, corrective):
    model = random_model(corrective=corrective)
    save_model(tmp_path / "model.npz", model)
    assert_same_model(load_model(tmp_path / "model.npz"), model)


def test_fixed_point_rounds_to_half_a_step(tmp_path):
    model = random_model()
    path = tmp_path / "model.npz"
    save_model(path, model, fixed_point={"shape_basis": 1e-4, "pose_basis": 1e-3})
    with np.load(path) as data:
        assert data["shape_basis"].dtype == np.int16 and data["pose_basis"].dtype == np.int16
    got = load_model(path)
    assert np.abs(got.shape_basis - model.shape_basis).max() <= 0.5001e-4
    np.testing.assert_array_equal(got.vertices, model.vertices)


def test_level_is_chosen_at_loading(tmp_path):
    model = random_model()
    save_model(tmp_path / "model.npz", model)
    assert len(load_model(tmp_path / "model.npz", level="coarse").vertices) == 11


def test_nothing_is_overwritten_or_half_written(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    save_model(path, random_model())
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        save_model(path, random_model(seed=3))

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="No space left"):
        save_model(path, random_model(seed=3), overwrite=True)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_missing_files_and_unknown_suffixes(tmp_path):
    with pytest.raises(FileNotFoundError, match="not one of the shipped models"):
        load_model(tmp_path / "none.npz")
    (tmp_path / "model.fbx").write_bytes(b"x")
    with pytest.raises(ValueError, match="need .npz, .pkl, .glb or .gltf"):
        load_model(tmp_path / "model.fbx")
    with pytest.raises(ValueError, match="got a folder"):
        load_model(tmp_path)


def saved_arrays(tmp_path):
    save_model(tmp_path / "good.npz", random_model())
    return read_npz(tmp_path / "good.npz")


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(version=np.int64(99)), "version 99, this jrecon reads up to"),
        (dict(version=np.float64(1)), "no integer `version`"),
        (dict(version=np.int64(0)), "need 1"),
        (dict(format=np.array("other")), "need 'jrecon-model'"),
        (dict(weights=None), "keys weights are missing"),
        (dict(faces=np.full((2, 3), 99)), "point outside"),
        (dict(parents=np.array([-1, 2, 1, 1, 3, 2, 4])), "break any cycle"),
        ({"vertices.step": np.zeros(3)}, "fixed point needs integers"),
    ],
)
def test_wrong_content_is_explained(tmp_path, change, message):
    arrays = {k: v for k, v in (saved_arrays(tmp_path) | change).items() if v is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "bad.npz")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.98])
def test_truncated_files_are_explained(tmp_path, keep):
    saved_arrays(tmp_path)
    data = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "bad.npz").write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    with pytest.raises(ValueError, match="truncated or damaged"):
        load_model(tmp_path / "bad.npz")


def test_a_flipped_byte_is_noticed(tmp_path):
    saved_arrays(tmp_path)
    data = bytearray((tmp_path / "good.npz").read_bytes())
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        entry = archive.getinfo("vertices.npy")
    data[entry.header_offset + 60 + entry.compress_size // 2] ^= 0xFF
    (tmp_path / "bad.npz").write_bytes(data)
    with pytest.raises(ValueError, match="truncated or damaged"):
        load_model(tmp_path / "bad.npz")


def test_pickles_inside_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return exec, ("raise SystemExit('executed')",)

    np.savez(tmp_path / "bad.npz", v_template=np.array([Bomb()], dtype=object))
    with pytest.raises(ValueError):
        load_model(tmp_path / "bad.npz")


def test_a_zip_that_unpacks_without_bound_is_refused(tmp_path, monkeypatch):
    saved_arrays(tmp_path)
    monkeypatch.setattr("jrecon.model.formats.MAX_BYTES", 100)
    with pytest.raises(ValueError, match="the limit for a model"):
        load_model(tmp_path / "good.npz")
