"""Limbs that were predicted wrong are put where they were seen."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jrecon.fit.fitter import make_fitter
from jrecon.fit.observation import observe
from jrecon.fit.search import search_limbs
from jrecon.fit.solve import anchor_of
from jrecon.model.parametric import pose
from jrecon.render import render
from tests.fit.test_solve import CAMERA, placed
from tests.learn.small_class import rod


def test_a_limb_that_was_predicted_elsewhere_is_found():
    fitter = make_fitter(rod(0.1))
    assert fitter.limbs == ((1,),)
    truth, guess = placed(bend=0.75), placed(bend=-0.75)
    seen = render(pose(fitter.model, truth).vertices, fitter.model.faces, CAMERA)
    view = observe(jnp.where(seen.mask, seen.depth, 3.5), CAMERA, seen.mask, samples=160)
    find = jax.jit(functools.partial(search_limbs, tries=1))
    anchor = jax.jit(anchor_of)(fitter, guess, jnp.full(2, 0.2))
    found = find(fitter, (view,), anchor, guess, hint=guess.pose)
    error = lambda p: float(
        jnp.linalg.norm(
            pose(fitter.model, p).vertices - pose(fitter.model, truth).vertices, axis=-1
        ).max()
    )
    assert error(guess) > 0.4
    assert error(found) < 0.2
    # Only the limb moves.
    np.testing.assert_array_equal(found.pose[0], guess.pose[0])
    np.testing.assert_array_equal(found.translation, guess.translation)
    # From where it was seen it does not go far.
    sure = jax.jit(anchor_of)(fitter, truth, jnp.full(2, 0.2))
    assert error(find(fitter, (view,), sure, truth, hint=truth.pose)) < 0.15
    # A hint is one of the poses that are tried, and here the best of them.
    fitter = dataclasses.replace(fitter, bank=fitter.bank[:0], nudges=0 * fitter.nudges)
    assert error(find(fitter, (view,), anchor, guess, hint=guess.pose)) > 0.4
    hinted = find(fitter, (view,), anchor, guess, hint=truth.pose)
    np.testing.assert_array_equal(hinted.pose[1], truth.pose[1])


def test_every_limb_ends_free_and_none_overlaps_another():
    from jrecon.model.formats import load_model

    fitter = make_fitter(load_model("body", level="2k"))
    names = [[fitter.model.joint_names[j] for j in limb] for limb in fitter.limbs]
    assert ["left_collar", "left_shoulder", "left_elbow", "left_wrist"] in names
    assert ["right_hip", "right_knee", "right_ankle", "right_foot"] in names
    joints = [j for limb in fitter.limbs for j in limb]
    assert len(set(joints)) == len(joints) and 0 not in joints
