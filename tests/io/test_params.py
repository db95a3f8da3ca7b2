"""Parameters come back as they were written."""

import dataclasses

import jax
import numpy as np
import pytest

from jrecon.io.params import load_params, save_params
from jrecon.model.smpl import read_smpl_family
from tests.model.family_files import make_arrays
from tests.model.small_models import params_of, random_model, random_params


@pytest.mark.parametrize("batch", ((), (3,)))
def test_round_trip(tmp_path, batch):
    model = random_model()
    params = params_of(random_params(model, batch=batch))
    if batch:
        params = dataclasses.replace(params, shape=np.zeros((3, model.num_shape), np.float32))
    save_params(tmp_path / "p.npz", model, params, frame="camera", fps=12.5 if batch else 0)
    motion = load_params(tmp_path / "p.npz", model)
    assert (motion.frame, motion.model) == ("camera", model.name)
    assert motion.fps == (12.5 if batch else 0)
    jax.tree.map(np.testing.assert_array_equal, motion.params, params)
    with pytest.raises(FileExistsError):
        save_params(tmp_path / "p.npz", model, params)


def test_smpl_models_get_the_names_of_amass(tmp_path):
    model = read_smpl_family(make_arrays("smpl"), "smpl")
    params = params_of(random_params(model))
    save_params(tmp_path / "p.npz", model, params)
    with np.load(tmp_path / "p.npz") as file:
        assert file["poses"].shape == (1, 3 * model.num_joints)
        np.testing.assert_array_equal(file["poses"].reshape(-1, 3), params.pose)
        np.testing.assert_array_equal(file["betas"], params.shape)
        np.testing.assert_array_equal(file["trans"][0], params.translation)
    save_params(tmp_path / "q.npz", random_model(), params_of(random_params(random_model())))
    with np.load(tmp_path / "q.npz") as file:
        assert "poses" not in file.files


def test_other_files_and_other_models_are_refused(tmp_path):
    model, path = random_model(), tmp_path / "p.npz"
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_params(path)
    np.savez(path, depth=np.zeros(3))
    with pytest.raises(ValueError, match="not parameters"):
        load_params(path)
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match="damaged"):
        load_params(path)
    save_params(path, model, params_of(random_params(model)), overwrite=True)
    other = dataclasses.replace(model, joint_names=tuple(f"{n}_" for n in model.joint_names))
    with pytest.raises(ValueError, match="joint_names"):
        load_params(path, other)
    with np.load(path) as file:
        arrays: dict = dict(file)
    np.savez(path, **{name: value for name, value in arrays.items() if name != "fps"})
    with pytest.raises(ValueError, match="lacks fps"):
        load_params(path)
