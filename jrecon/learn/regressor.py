"""The reconstruction function: a depth map, its camera and a mask -> parameters, with uncertainty.

A `Regressor` is a pytree: the class of objects, a network's weights, and the scale of its outputs.
The network sees the object through a virtual camera (`jrecon.learn.view`) and answers in its frame:
where the root joint is, how the object is turned, the rotation of every joint (as 6D), the shape,
and for every joint the expected error of its position. The answer is turned back into the frame of
the true camera, so the model overlays the depth map.

Where a class is its own mirror image, the network is asked twice, the second time about the mirror
image, and both answers count: it has not learned the symmetry exactly.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jrecon.geometry import rotation
from jrecon.geometry.camera import Camera
from jrecon.learn.network import NetworkConfig, Weights, apply_network, init_network
from jrecon.learn.view import HIGHEST, ObjectView, view_objects
from jrecon.model.parametric import ParametricModel, Params
from jrecon.model.symmetry import (
    is_symmetric,
    mirrored_points,
    mirrored_rotations,
    opposite_joints,
)
from jrecon.synth.viewpoint import FLIP

# Before it has learned, the network places joints to so many metres.
_FIRST_STD_M = 0.3
# Radians between two answers about the root, beyond which there is nothing to be had in between.
_CONTRARY = 1.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Regressor:
    """A learned reconstruction function for a class of objects. Make one with `make_regressor`, or
    from weights with `with_weights`."""

    model: ParametricModel
    weights: Weights
    network: NetworkConfig = dataclasses.field(metadata=dict(static=True))
    opposite: tuple[int, ...] = dataclasses.field(default=(), metadata=dict(static=True))
    """For each joint the one on the other side, if mirror images are to be looked at, too."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What a regressor says of an object."""

    params: Params
    """In the frame of the camera, metres."""
    joint_std: Float[Array, "*batch j"]
    """Expected error of the position of every joint, metres (mean absolute deviation)."""


def make_regressor(
    model: ParametricModel, key: PRNGKeyArray, network: NetworkConfig | None = None
) -> Regressor:
    """A regressor that has learned nothing yet: it answers with the mean of the class.

    Raises:
      ValueError: a network whose sizes do not fit together.
    """
    network = network or NetworkConfig()
    return with_weights(model, init_network(network, output_size(model), key), network)


def with_weights(model: ParametricModel, weights: Weights, network: NetworkConfig) -> Regressor:
    """A regressor that has learned already."""
    opposite = opposite_joints(model) if is_symmetric(model) else ()
    return Regressor(model, weights, network, opposite)


def output_size(model: ParametricModel) -> int:
    """Root position, rotations, shape, and a deviation for each joint."""
    return 3 + 6 * model.num_joints + model.num_shape + model.num_joints


@jax.jit
def predict(
    function: Regressor,
    depth: Float[Array, "*batch h w"],
    camera: Camera,
    mask: Bool[Array, "*batch h w"],
) -> Prediction:
    """Parameters of the object in each depth map; total.

    Args:
      depth: metres, 0 = no return; everything in the image, not the object alone.
      camera: of the images; batch axes broadcast.
      mask: the object's pixels. Where none has a depth, the answer is the mean of the class, and
        its deviation means nothing.
    """
    return predict_views(function, view_objects(depth, camera, mask, function.network.image))


def predict_views(function: Regressor, views: ObjectView) -> Prediction:
    """The same from what the network sees; views may have batch axes."""
    batch = views.middle.shape[:-1]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(batch) :]), views)
    found = _predict_flat(function, flat)
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), found)


def _predict_flat(function: Regressor, views: ObjectView) -> Prediction:
    model, opposite = function.model, function.opposite
    images, scalars = views.image, views.scalars
    if opposite:
        flipped = images[:, :, ::-1].at[..., 0].multiply(-1)
        images, scalars = jnp.concatenate([images, flipped]), jnp.concatenate([scalars, scalars])
    outputs = apply_network(function.network, output_size(model), function.weights, images, scalars)
    rotations, shape, root, joint_std = answer = split_outputs(model, outputs)
    if opposite:
        count = len(images) // 2
        first = jax.tree.map(lambda x: x[:count], answer)
        second = _unflip(opposite, jax.tree.map(lambda x: x[count:], answer))
        rotations, shape, root, joint_std = jax.vmap(_together)(first, second)
    turn = jnp.swapaxes(views.turn, -1, -2)
    oriented = jnp.matmul(turn, rotations[:, 0], precision=HIGHEST)
    joint = jnp.matmul(model.joint_basis[0], shape[..., None], precision=HIGHEST)[..., 0]
    place = views.middle + jnp.einsum("bij,bj->bi", turn, root, precision=HIGHEST)
    pose = rotation.log(jnp.concatenate([oriented[:, None], rotations[:, 1:]], axis=1))
    translation = place - (model.joints[:1] + joint)
    return Prediction(Params(shape, pose, translation), joint_std)


Answer = tuple[Array, Array, Array, Array]
"""As `split_outputs`."""


def _unflip(opposite: tuple[int, ...], answer: Answer) -> Answer:
    """What an answer about the mirror image says of the object."""
    rotations, shape, root, joint_std = answer
    turned = mirrored_rotations(opposite, rotations)
    return turned, shape, mirrored_points(root), joint_std[:, np.array(opposite)]


def _together(first: Answer, second: Answer) -> Answer:
    """The middle of two answers, or, if they are contrary, the one that is surer of itself."""
    between = rotation.log(jnp.matmul(jnp.swapaxes(first[0], -1, -2), second[0], precision=HIGHEST))
    contrary = jnp.linalg.norm(between[0]) > _CONTRARY
    surer = jnp.where(jnp.mean(first[3]) <= jnp.mean(second[3]), 0.0, 1.0)
    share = jnp.where(contrary, surer, 0.5)
    rotations = jnp.matmul(first[0], rotation.exp(share * between), precision=HIGHEST)
    mix = lambda a, b: a + share * (b - a)
    shape, root, joint_std = jax.tree.map(mix, first[1:], second[1:])
    return rotations, shape, root, joint_std


def split_outputs(
    model: ParametricModel, outputs: Float[Array, "b o"]
) -> tuple[Array, Array, Array, Array]:
    """Rotations (b, j, 3, 3), shape (b, s), root joint (b, 3), deviations (b, j): the first and the
    third in the frame of the virtual camera. Outputs of zero are the upright mean, facing it."""
    count = model.num_joints
    ends = np.cumsum([3, 6 * count, model.num_shape])
    root, columns, shape, spread = jnp.split(outputs, ends, axis=-1)
    start = np.tile(np.eye(3, 2).T.reshape(6), (count, 1))
    start[0] = FLIP[:, :2].T.reshape(6)
    rotations = rotation.from_6d(columns.reshape(-1, count, 6) + start.astype(np.float32)[None])
    return rotations, shape, root, _FIRST_STD_M * jnp.exp(jnp.clip(spread, -6.0, 3.0))
