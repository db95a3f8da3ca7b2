"""What the tests of learning share: a small class, and examples of it made by one program."""

import jax
import numpy as np
import pytest

from jrecon.learn.mesh import data_mesh
from jrecon.learn.regressor import make_regressor
from jrecon.learn.supply import make_split
from jrecon.synth.database import write_database
from jrecon.synth.generate import VERSION, make_source
from jrecon.synth.manifest import make_manifest, model_entry
from jrecon.synth.reading import open_database
from jrecon.synth.settings import settings
from tests.learn.small_class import BATCH, EASY, NETWORK, rod


@pytest.fixture(scope="session")
def source():
    return make_source(rod(), EASY)


@pytest.fixture(scope="session")
def function(source):
    return make_regressor(source.model, jax.random.key(0), NETWORK)


@pytest.fixture(scope="session")
def make(source):
    """(seed, count) -> examples: in batches of one size, so that it is compiled once."""

    def make(seed, count):
        parts = [
            jax.tree.map(
                np.asarray, make_split(source, seed, start, count=BATCH, mesh=data_mesh(1))
            )
            for start in range(0, count, BATCH)
        ]
        return jax.tree.map(lambda *each: np.concatenate(each), *parts)

    return make


@pytest.fixture(scope="session")
def database(source, make, tmp_path_factory):
    """24 examples on disk."""
    made = make(2, 24)
    manifest = make_manifest(
        model=model_entry(source.model),
        config=settings(source.config),
        generator=f"jrecon.synth {VERSION}",
        seed=2,
        width=EASY.width,
        height=EASY.height,
        shard_size=8,
    )
    path = tmp_path_factory.mktemp("learn") / "database"
    part = lambda start, count: jax.tree.map(lambda x: x[start : start + count], made)
    write_database(path, part, manifest, 24, batch_size=8)
    return open_database(path)
