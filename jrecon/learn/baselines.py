"""Other forms of the reconstruction function: nearest neighbour and linear regression.

They see the same view of the object as the network, coarsely, and answer in the same terms. A net
has to beat them; a small class may need no net.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial import KDTree

from jrecon.geometry import rotation
from jrecon.geometry.camera import Camera
from jrecon.learn.regressor import Prediction
from jrecon.learn.view import HIGHEST, ObjectView, view_objects
from jrecon.model.parametric import ParametricModel, Params
from jrecon.synth.example import Example

Predictor = Callable[[Array, Camera, Array], Prediction]
"""(depth, camera, mask), each with one batch axis, to a prediction. What `evaluate` takes."""

SIDE = 16
# Of the mask against metres, where both are compared.
_MASK_M = 0.3


def mean_predictor(model: ParametricModel, examples: Example) -> Predictor:
    """The mean of some examples, at the middle of what is seen: the least that one can know."""
    found = _Targets.of(model, examples)
    mean = _Targets(*(jnp.mean(x, axis=0, keepdims=True) for x in dataclasses.astuple(found)))

    def predict(depth: Array, camera: Camera, mask: Array) -> Prediction:
        views = _views(depth, camera, mask)
        count = depth.shape[0]
        same = _Targets(*(jnp.repeat(x, count, axis=0) for x in dataclasses.astuple(mean)))
        return same.prediction(model, views)

    return predict


def nearest_neighbor(
    model: ParametricModel, examples: Example, *, dimensions: int = 48, neighbors: int = 1
) -> Predictor:
    """The parameters of the example that looks most alike: a KD-tree over a geometric embedding,
    the leading principal components of the view's points and mask.

    Args:
      examples: with one batch axis; the more, the better and the slower (a lookup in 48 dimensions
        looks at most of them).
      neighbors: how many are averaged.
    """
    views = _views(examples.depth, examples.camera, examples.mask)
    features = np.asarray(_features(views), np.float64)
    middle = features.mean(0)
    values, vectors = np.linalg.eigh(np.cov((features - middle).T))
    basis = vectors[:, ::-1][:, :dimensions]
    tree, targets = KDTree((features - middle) @ basis), _Targets.of(model, examples)

    def predict(depth: Array, camera: Camera, mask: Array) -> Prediction:
        seen = _views(depth, camera, mask)
        asked = (np.asarray(_features(seen), np.float64) - middle) @ basis
        _, index = tree.query(asked, k=neighbors)
        index = np.asarray(index).reshape(len(asked), neighbors)
        found = _Targets(*(jnp.mean(x[index], axis=1) for x in dataclasses.astuple(targets)))
        return found.prediction(model, seen)

    return predict


def linear(model: ParametricModel, examples: Example, *, ridge: float = 30.0) -> Predictor:
    """Ridge regression from the view's points and mask to all outputs.

    Args:
      ridge: penalty on the squares of coefficients, against that many examples' errors.
    """
    views = _views(examples.depth, examples.camera, examples.mask)
    features = np.asarray(_features(views), np.float64)
    targets = np.concatenate(
        [np.asarray(x).reshape(len(features), -1)
         for x in dataclasses.astuple(_Targets.of(model, examples))], axis=1,
    )  # fmt: skip
    middle, mean = features.mean(0), targets.mean(0)
    centred = features - middle
    gram = centred.T @ centred + ridge * np.eye(features.shape[1])
    matrix = np.linalg.solve(gram, centred.T @ (targets - mean)).astype(np.float32)
    start = (mean - middle @ matrix).astype(np.float32)

    def predict(depth: Array, camera: Camera, mask: Array) -> Prediction:
        seen = _views(depth, camera, mask)
        outputs = jnp.matmul(_features(seen), matrix, precision=HIGHEST) + start[None]
        return _Targets.split(model, outputs).prediction(model, seen)

    return predict


@functools.partial(jax.jit, static_argnums=3)
def _views(depth: Array, camera: Camera, mask: Array, side: int = SIDE) -> ObjectView:
    return view_objects(depth, camera, mask, side)


def _features(views: ObjectView) -> Float[Array, "b d"]:
    scaled = views.image[..., :4] * np.array([[[[1.0, 1.0, 1.0, _MASK_M]]]], np.float32)
    return scaled.reshape(scaled.shape[0], -1)


@dataclasses.dataclass(frozen=True, eq=False)
class _Targets:
    """What is predicted: linear spaces, in the frame of the virtual camera."""

    root: Float[Array, "b 3"]
    columns: Float[Array, "b j 6"]
    shape: Float[Array, "b s"]

    @staticmethod
    def of(model: ParametricModel, examples: Example) -> _Targets:
        views = _views(examples.depth, examples.camera, examples.mask)
        params = examples.params
        rotations = rotation.exp(params.pose)
        oriented = jnp.matmul(views.turn, rotations[:, 0], precision=HIGHEST)
        rotations = jnp.concatenate([oriented[:, None], rotations[:, 1:]], axis=1)
        root = _root(model, params.shape) + params.translation - views.middle
        turned = jnp.einsum("bij,bj->bi", views.turn, root, precision=HIGHEST)
        return _Targets(turned, rotation.to_6d(rotations), params.shape)

    @staticmethod
    def split(model: ParametricModel, outputs: Float[Array, "b o"]) -> _Targets:
        count = model.num_joints
        root, columns, shape = jnp.split(outputs, [3, 3 + 6 * count], axis=-1)
        return _Targets(root, columns.reshape(-1, count, 6), shape)

    def prediction(self, model: ParametricModel, views: ObjectView) -> Prediction:
        turn = jnp.swapaxes(views.turn, -1, -2)
        rotations = rotation.from_6d(self.columns)
        oriented = jnp.matmul(turn, rotations[:, 0], precision=HIGHEST)
        pose = rotation.log(jnp.concatenate([oriented[:, None], rotations[:, 1:]], axis=1))
        place = views.middle + jnp.einsum("bij,bj->bi", turn, self.root, precision=HIGHEST)
        translation = place - _root(model, self.shape)
        unknown = jnp.full((len(pose), model.num_joints), jnp.nan)
        return Prediction(Params(self.shape, pose, translation), unknown)


def _root(model: ParametricModel, shape: Float[Array, "b s"]) -> Float[Array, "b 3"]:
    moved = jnp.matmul(model.joint_basis[0], shape[..., None], precision=HIGHEST)[..., 0]
    return model.joints[:1] + moved
