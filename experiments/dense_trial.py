"""A trial: does a dense head pay, which says of each pixel where on the surface of the model it is?

    python experiments/dense_trial.py --motion DIR [--examples 64000] [--count 80]
        [--out experiments/results/dense_trial.json]

On top of the shipped function's features, which stay as they are, a decoder learns for each of
32 x 32 pixels the place of its point on the unposed model, and how far off that may be. Then, on
the mixed condition of `bench_body.py`: predictions are drawn towards these correspondences by a few
steps of the fit's own solver, with its anchor and priors, and the fit goes on from there. Beside it
the same with the true correspondences, which is the most that any dense head can give, and the fit
as it is. Millimetres over the surface.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array

from experiments.bench_body import CONDITIONS, SEED, bench_set, bench_source
from experiments.bench_fit import errors_mm, of_parts, shown
from experiments.clips import read_clips
from experiments.provenance import provenance
from jrecon.fit import energy
from jrecon.fit.energy import Anchor, Pulls
from jrecon.fit.fitter import Fitter, move, point_jacobian, posed_points
from jrecon.fit.observation import observe
from jrecon.fit.solve import FitConfig, anchor_of, fit
from jrecon.learn import network as net, view as seen_by
from jrecon.learn.regressor import Regressor, predict
from jrecon.learn.supply import synthesis
from jrecon.learn.train import TrainConfig, make_optimizer
from jrecon.learn.view import ObjectView, view_objects
from jrecon.model.parametric import ParametricModel, Params, pose
from jrecon.reconstructor import load
from jrecon.render import rasterize
from jrecon.synth.example import Example
from jrecon.synth.generate import make_source

SIDE = 32
# Of the steps that draw a prediction towards correspondences: like `EnergyConfig.patch_m2`, and how
# near a correspondence is at best.
_PATCH_M2, _LEAST_M, _STEPS = 0.0036, 0.02, 8
# Errors of a correspondence are this many of its deviations before it loses its weight.
_WIDTH = 3.0


class Decoder(nnx.Module):
    """Features of three stages and the image, finer step by step; four numbers for each pixel."""

    def __init__(self, channels: tuple[int, ...], *, rngs: nnx.Rngs) -> None:
        fine, middle, coarse = channels
        conv = functools.partial(nnx.Conv, rngs=rngs)
        self.coarse = conv(coarse, 128, (1, 1))
        self.middle = conv(128 + middle, 128, (3, 3))
        self.fine = conv(128 + fine, 128, (3, 3))
        self.spread = conv(128, 4 * 40, (1, 1))
        self.mix = conv(40 + seen_by.CHANNELS, 48, (3, 3))
        self.out = conv(48, 4, (1, 1), kernel_init=nnx.initializers.zeros)

    def __call__(self, features: list[Array], image: Array) -> Array:
        fine, middle, coarse = features
        twice = lambda x: jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
        x = nnx.gelu(self.coarse(coarse))
        x = nnx.gelu(self.middle(jnp.concatenate([twice(x), middle], -1)))
        x = nnx.gelu(self.fine(jnp.concatenate([twice(x), fine], -1)))
        x = nnx.gelu(self.spread(x)).reshape(*x.shape[:3], 2, 2, -1)
        x = jnp.swapaxes(x, 2, 3).reshape(x.shape[0], SIDE, SIDE, -1)
        x = nnx.gelu(self.mix(jnp.concatenate([x, image], -1)))
        return self.out(x)


def features_of(function: Regressor, images: Array) -> list[Array]:
    """What the network's stages make of images, from fine to coarse."""
    graph, state = net._graph(function.network, 1)
    state = jax.tree.map(lambda x: x, state)
    weights = function.weights | {"out": {"kernel": jnp.zeros((512, 1)), "bias": jnp.zeros(1)}}
    nnx.replace_by_pure_dict(state, net._restore_lists(weights))
    network = nnx.merge(graph, state)
    x, found = network.stem(images), []
    for index, stage in enumerate(network.stages):
        for block in stage:
            x = block(x)
        found.append(x)
        if index < len(network.narrow):
            x = network.narrow[index](x)
    return [jax.lax.stop_gradient(x) for x in found]


def truth_of(model: ParametricModel, example: Example, size: int) -> tuple[Array, Array]:
    """Of one example: (32, 32, 3) where on the unposed model each pixel's point is, and where that
    is known: at the object's own pixels."""
    seen = rasterize(pose(model, example.params).vertices, model.faces, example.camera)
    corners = model.faces[jnp.maximum(seen.face_id, 0)]
    places = jnp.einsum("hwc,hwca->hwa", seen.barycentrics, model.vertices[corners])
    low, side = seen_by._window(example.mask & (example.depth > 0))
    step = (jnp.arange(size) + 0.5) / size * side - 0.5
    columns, rows = low[0] + step, low[1] + step
    u = jnp.clip(jnp.round(columns), 0, example.depth.shape[1] - 1).astype(int)
    v = jnp.clip(jnp.round(rows), 0, example.depth.shape[0] - 1).astype(int)
    every = size // SIDE
    u, v = u[::every], v[::every]
    return places[v[:, None], u[None]], (seen.face_id >= 0)[v[:, None], u[None]]


def coarse_of(images: Array) -> Array:
    every = images.shape[1] // SIDE
    return images[:, ::every, ::every]


def decoded(graph: Any, state: Any, function: Regressor, images: Array) -> tuple[Array, Array]:
    """Places on the unposed model, metres, and their deviations."""
    out = nnx.merge(graph, state)(features_of(function, images), coarse_of(images))
    middle = (function.model.vertices.max(0) + function.model.vertices.min(0)) / 2
    return out[..., :3] + middle[None, None, None], 0.3 * jnp.exp(jnp.clip(out[..., 3], -4.0, 2.0))


def learn(
    function: Regressor, examples: int, batch: int = 64
) -> tuple[Any, Any, list[dict[str, float]]]:
    """A decoder, and its errors on the way."""
    graph, state = nnx.split(Decoder(function.network.channels, rngs=nnx.Rngs(0)))
    config = TrainConfig(
        steps=examples // batch, batch=batch, optimizer="muon", learning_rate=2e-3, warmup=50,
        decay=examples // batch // 2, average=0.99,
    )  # fmt: skip
    optimizer = make_optimizer(config)
    weights = nnx.to_pure_dict(state)

    def whole(weights: Any) -> Any:
        full = jax.tree.map(lambda x: x, state)
        nnx.replace_by_pure_dict(full, weights)
        return full

    def loss(weights: Any, images: Array, places: Array, known: Array) -> tuple[Array, Array]:
        found, deviation = decoded(graph, whole(weights), function, images)
        error = jnp.sqrt(jnp.sum((found - places) ** 2, -1) + 1e-8)
        # Laplace's likelihood in three dimensions, and the error itself.
        each = error + 0.1 * (error / deviation + 3 * jnp.log(deviation))
        count = jnp.maximum(known.sum(), 1)
        return jnp.sum(known * each) / count, 1e3 * jnp.sum(known * error) / count

    @jax.jit
    def step(weights: Any, memory: Any, part: Example) -> tuple[Any, Any, Array]:
        views = view_objects(part.depth, part.camera, part.mask, function.network.image)
        size = function.network.image
        places, known = jax.lax.map(lambda e: truth_of(function.model, e, size), part)
        known &= coarse_of(views.image)[..., 3] > 0
        slopes, error = jax.grad(loss, has_aux=True)(weights, views.image, places, known)
        change, memory = optimizer.update(slopes, memory, weights)
        return optax.apply_updates(weights, change), memory, error

    stream = synthesis(make_source(function.model), batch, seed=SEED).batches(0)
    memory, log, errors = optimizer.init(weights), [], []
    begin = time.perf_counter()
    for number in range(1, config.steps + 1):
        weights, memory, error = step(weights, memory, next(stream))
        errors.append(float(error))
        if number % 100 == 0 or number == config.steps:
            rate = round(number * batch / (time.perf_counter() - begin), 1)
            log.append({"examples": number * batch, "error_mm": round(float(np.mean(errors)), 1),
                        "examples_per_s": rate})  # fmt: skip
            errors = []
            print(log[-1], flush=True)
    return graph, whole(weights), log


def drawn(
    fitter: Fitter, anchor: Anchor, views: ObjectView, places: Array, deviation: Array
) -> Params:
    """One prediction after a few steps towards correspondences."""
    image = coarse_of(views.image[None])[0]
    own = (image[..., 3] > 0).reshape(-1)
    targets = image[..., :3].reshape(-1, 3) @ views.turn + views.middle[None]
    vertices = fitter.model.vertices
    apart = jnp.sum((places.reshape(-1, 1, 3) - vertices[None]) ** 2, -1)
    corners = jnp.argmin(apart, axis=1)
    sigma = jnp.hypot(deviation.reshape(-1), _LEAST_M)
    area = jnp.exp(2 * views.scalars[0]) / 50**2 * 4
    pulls = Pulls(
        corners=corners[:, None],
        mix=jnp.ones((len(corners), 1)),
        target=targets,
        metric=jnp.eye(3)[None] / sigma[:, None, None],
        weight=jnp.where(own, area / _PATCH_M2, 0.0),
        width=jnp.full(len(corners), _WIDTH),
    )
    config = FitConfig()

    def improve(_: int, params: Params) -> Params:
        points, slopes = posed_points(fitter, params), point_jacobian(fitter, params)
        parts = [
            energy._of_pulls(points, slopes, pulls),
            energy._of_pulls(
                points, slopes, energy.joint_pulls(fitter, config.energy, anchor, jnp.ones(()))
            ),
            energy._of_parameters(fitter, config.energy, anchor, params, jnp.ones(())),
        ]
        curvature = sum(part.curvature for part in parts)
        slope = sum(part.slope for part in parts)
        damped = curvature + 0.01 * jnp.diag(jnp.diagonal(curvature)) + 1e-6 * jnp.eye(fitter.size)
        step = -jnp.linalg.solve(damped, slope)
        turns = jnp.linalg.norm(step[fitter.shapes :].reshape(-1, 3), axis=-1)
        step *= jnp.minimum(1.0, config.longest_rad / jnp.maximum(jnp.max(turns), 1e-9))
        return move(fitter, params, step)

    return jax.lax.fori_loop(0, _STEPS, improve, anchor.params)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--motion", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=64_000)
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    recon = load("body")
    function, model = recon.function, recon.model
    graph, state, log = learn(function, args.examples)
    each = CONDITIONS["mixed"]
    clips = read_clips(args.motion, model)
    examples = bench_set(bench_source(model, clips, each), each, args.count)
    seen = np.asarray(shown(model, examples))
    views = view_objects(examples.depth, examples.camera, examples.mask, function.network.image)
    found = predict(function, examples.depth, examples.camera, examples.mask)
    anchor = anchor_of(recon.fitter, found.params, found.joint_std)
    size = function.network.image
    truth, known = jax.lax.map(lambda e: truth_of(model, e, size), examples)
    known = np.asarray(known & (coarse_of(views.image)[..., 3] > 0))
    places, deviation = jax.jit(functools.partial(decoded, graph))(state, function, views.image)
    off = 1e3 * np.linalg.norm(np.asarray(places - truth), axis=-1)[known]
    observed = jax.lax.map(lambda e: observe(e.depth, e.camera, e.mask), examples)
    draw = jax.jit(lambda *lanes: jax.lax.map(lambda x: drawn(recon.fitter, *x), lanes))
    refine = jax.jit(lambda anchor: fit(recon.fitter, anchor, (observed,), recon.config))
    report: dict[str, Any] = provenance("experiments/dense_trial.py --motion DIR")
    report |= {
        "count": args.count,
        "learned": log,
        "correspondence_mm": {
            "mean": round(float(off.mean()), 1),
            "median": round(float(np.median(off)), 1),
        },
    }
    print(report["correspondence_mm"], flush=True)
    exact = jnp.where(jnp.asarray(known), 0.0, 1e3)
    starts = {
        "prediction": found.params,
        "dense head": draw(anchor, views, places, deviation),
        "true correspondences": draw(anchor, views, truth, exact),
    }
    for name, params in starts.items():
        moved = anchor_of(recon.fitter, params, found.joint_std)
        fitted = refine(moved).params
        report[name] = {
            "start": of_parts(errors_mm(model, params, examples.params), seen),
            "refined": of_parts(errors_mm(model, fitted, examples.params), seen),
        }
        print(name, report[name], flush=True)
        if args.out:
            args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
