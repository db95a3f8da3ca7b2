"""Where the examples of a training run come from: made on the devices, or read from a database.

Step t learns from the examples t * batch ... (t + 1) * batch of the supply, whatever the number of
devices and hosts, and whether the run was interrupted before: a supply has no state but that t.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from jrecon.learn.mesh import AXIS, EVERYWHERE, SPLIT, data_mesh, replicate, split_local
from jrecon.model.parametric import ParametricModel, at_level
from jrecon.synth.epochs import batches
from jrecon.synth.example import Example
from jrecon.synth.generate import VERSION, Source, make_examples
from jrecon.synth.manifest import model_entry
from jrecon.synth.reading import Database
from jrecon.synth.settings import settings

# Number of the first example that is learned from: databases and evaluation begin at 0, so that
# none of theirs is learned from, whatever the seeds are.
_FIRST = 2**31


@dataclasses.dataclass(frozen=True, eq=False)
class Supply:
    """The examples of a run. Get one from `synthesis` or `stored`."""

    batches: Callable[[int], Generator[Example]]
    """From a step on, without end: the examples of each step, split over the mesh."""
    about: Mapping[str, Any]
    """What they are, as plain JSON: runs on other examples are other runs."""


def synthesis(source: Source, batch: int, *, seed: int = 0, mesh: Mesh | None = None) -> Supply:
    """Examples that each device makes for itself, new ones in every step.

    Raises:
      ValueError: the batch cannot be divided by the devices.
    """
    mesh = mesh or data_mesh(1)
    _check(batch, mesh)
    everywhere = replicate(source, mesh)

    def from_step(step: int) -> Generator[Example]:
        while True:
            # Numbers wrap around after 2^32 examples, as keys do.
            start = np.array((_FIRST + step * batch) % 2**32, np.uint32).view(np.int32)
            yield make_split(everywhere, np.int32(seed), start, count=batch, mesh=mesh)
            step += 1

    about = {
        "kind": "synthesis",
        "generator": f"jrecon.synth {VERSION}",
        "config": settings(source.config),
        "model": model_entry(source.model),
        "seed": seed,
        "first": _FIRST,
    }
    return Supply(from_step, about)


@functools.partial(jax.jit, static_argnames=("count", "mesh"))
def make_split(source: Source, seed: Array, start: Array, *, count: int, mesh: Mesh) -> Example:
    """Examples `start` to `start + count` of a run, each device its part of them. Compiled once for
    all runs of a process on sources of one size."""
    share = count // mesh.size

    def own_part(source: Source, seed: Array, start: Array) -> Example:
        numbers = start + jax.lax.axis_index(AXIS) * share + jnp.arange(share)
        return make_examples(source, jax.random.key(seed), numbers)

    return jax.shard_map(
        own_part, mesh=mesh, in_specs=EVERYWHERE, out_specs=SPLIT, check_vma=False
    )(source, seed, start)


def stored(db: Database, batch: int, *, seed: int = 0, mesh: Mesh | None = None) -> Supply:
    """Examples of a database in shuffled epochs, read ahead; each host reads its part alone.

    Raises:
      ValueError: the batch cannot be divided by the devices.
    """
    mesh = mesh or data_mesh(1)
    _check(batch, mesh)
    host, hosts = jax.process_index(), jax.process_count()

    def from_step(step: int) -> Generator[Example]:
        reader: Any = batches(db, batch, seed=seed, position=step * batch, host=host, hosts=hosts)
        with contextlib.closing(reader):
            for _, examples in reader:
                yield split_local(examples, mesh)

    kept = ("model", "config", "generator", "seed", "count")
    about = {name: db.manifest.get(name) for name in kept} | {"examples": len(db)}
    return Supply(from_step, {"kind": "database", **about, "order": seed})


def require_class(db: Database, model: ParametricModel) -> None:
    """Raises ValueError unless the database is of this model, at any level of detail."""
    found = db.manifest["model"]
    alike = [found.get(name) for name in ("name", "joints", "shape")]
    levels = [model, *(at_level(model, name) for name, _ in model.levels)]
    same = alike == [model.name, model.num_joints, model.num_shape] and any(
        model_entry(each)["digest"] == found.get("digest") for each in reversed(levels)
    )
    if not same:
        raise ValueError(
            f"{db.path}: its examples are of a model {found.get('name')!r} ({found.get('joints')} "
            f"joints, {found.get('shape')} coefficients), the function is for {model.name!r} "
            f"({model.num_joints} joints, {model.num_shape} coefficients), or a version of it with "
            "other arrays; pass the model that the database was made with."
        )


def _check(batch: int, mesh: Mesh) -> None:
    if batch < 1 or batch % mesh.size:
        raise ValueError(
            f"batch: got {batch} examples for {mesh.size} devices, need a multiple of {mesh.size}."
        )
