"""`reconstruct` from outside: what it refuses, and that it may be part of a larger program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.fit.fitter import make_fitter
from jrecon.fit.solve import FitConfig
from jrecon.learn.regressor import make_regressor
from jrecon.model.parametric import pose
from jrecon.reconstructor import Reconstructor, reconstruct, start_track, track
from jrecon.render import render
from tests.fit.test_solve import CAMERA, placed
from tests.learn.small_class import NETWORK, rod


@pytest.fixture(scope="module")
def recon():
    model = rod(0.1)
    config = FitConfig(coarse=(3.0,), fine=(1.0,))
    function = make_regressor(model, jax.random.key(0), NETWORK)
    return Reconstructor(function, make_fitter(model), config)


@pytest.fixture(scope="module")
def image(recon):
    posed = pose(recon.model, placed(bend=0.2, lean=0.1, x=0.05))
    view = render(posed.vertices, recon.model.faces, CAMERA)
    return np.asarray(jnp.where(view.mask, view.depth, 3.5)), np.asarray(view.mask)


def test_depth_that_is_not_in_metres_is_refused(recon, image):
    depth, mask = image
    with pytest.raises(ValueError, match="got uint16, need metres as floats"):
        reconstruct(recon, (1e3 * depth).astype(np.uint16), CAMERA, mask)
    with pytest.raises(ValueError, match="got a median of .* need metres"):
        reconstruct(recon, 1e3 * depth, CAMERA, mask)
    with pytest.raises(ValueError, match="need metres"):
        track(recon, start_track(recon), 1e3 * depth, CAMERA, mask)


def test_images_that_do_not_fit_are_refused(recon, image):
    depth, mask = image
    with pytest.raises(ValueError, match="need the same"):
        reconstruct(recon, depth, CAMERA, mask[1:])
    with pytest.raises(ValueError, match="but the camera has"):
        reconstruct(recon, depth[1:], CAMERA, mask[1:])
    with pytest.raises(ValueError, match="need one frame"):
        track(recon, start_track(recon), depth[None], CAMERA, mask[None])


def test_within_jit_it_is_what_it_is_outside(recon, image):
    outside = reconstruct(recon, image[0], CAMERA, image[1])
    inside = jax.jit(reconstruct)(recon, image[0], CAMERA, image[1])
    assert jax.tree.structure(outside) == jax.tree.structure(inside)
    np.testing.assert_allclose(outside.vertices, inside.vertices, atol=1e-4)
    np.testing.assert_allclose(outside.params.pose, inside.params.pose, atol=1e-3)
