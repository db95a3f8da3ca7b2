"""A small class ready to be shown, and pages driven in headless Chromium."""

import dataclasses
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.fit.fitter import make_fitter
from jrecon.fit.report import Agreement
from jrecon.fit.solve import FitConfig, FitResult
from jrecon.geometry.camera import make_camera
from jrecon.learn.regressor import Prediction
from jrecon.model.parametric import pose, zeros
from jrecon.reconstructor import Reconstruction, Reconstructor
from tests.learn.small_class import rod

CAMERA = make_camera(60, 60, 23.5, 31.5, 48, 64)


@pytest.fixture(scope="session")
def shown():
    """(reconstructor, result, depth, camera, mask) of a rod 2 m ahead. Nothing was fitted: what is
    shown must not depend on how good a result is."""
    model = rod()
    function: Any = None
    recon = Reconstructor(function, make_fitter(model), FitConfig())
    depth = np.full((64, 48), 3.0, np.float32)
    mask = np.zeros(depth.shape, bool)
    mask[16:48, 20:28] = True
    depth[mask] = 1.9
    upright = zeros(model).pose.at[0, 0].set(np.pi)
    params = dataclasses.replace(zeros(model), pose=upright, translation=jnp.array([0, 0, 2.0]))
    posed = pose(model, params)
    joint_std = jnp.full(model.num_joints, 0.02)
    fit = FitResult(
        params=params,
        status=jnp.int32(0),
        agreement=Agreement(*jnp.array([12.0, 0.8, 0.7, 0.9])),
        shape_deviation=jnp.asarray(0.5),
        joint_std=joint_std,
        vertex_std=jnp.linspace(0, 0.1, len(model.vertices)),
        covariance=jnp.eye(recon.fitter.size),
        energy=jnp.float32(1.0),
        start=jnp.int32(0),
        history=jnp.geomspace(100, 1, 20),
    )
    prediction = Prediction(params, joint_std)
    result = Reconstruction(params, posed.vertices, posed.joints, prediction, fit)
    return recon, jax.tree.map(np.asarray, result), depth, CAMERA, mask


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; tests are skipped without it or playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"needs one of {', '.join(names)}")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=found,
            args=[
                "--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader",
                "--enable-unsafe-swiftshader", "--disable-background-networking",
                "--disable-sync", "--no-first-run",
            ],
        )  # fmt: skip
        yield opened
        opened.close()
