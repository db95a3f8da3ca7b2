"""What the tests of learning share: a small class, and examples of it made by one program."""

import jax
import pytest

from jrecon.learn.evaluation import join
from jrecon.learn.regressor import make_regressor
from jrecon.learn.supply import synthesis
from jrecon.synth.database import write_database
from jrecon.synth.generate import VERSION, make_source
from jrecon.synth.manifest import make_manifest, model_entry
from jrecon.synth.reading import open_database
from jrecon.synth.settings import settings
from tests.learn.small_class import BATCH, EASY, NETWORK, rod


@pytest.fixture(autouse=True, scope="package")
def quick_compilation():
    """Compiling takes nearly all of the time here, and unoptimised code comes out in half of it."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="package")
def source():
    return make_source(rod(), EASY)


@pytest.fixture(scope="package")
def function(source):
    return make_regressor(source.model, jax.random.key(0), NETWORK)


@pytest.fixture(scope="package")
def make(source):
    """(seed, count) -> examples: by the program that makes those of runs."""

    def make(seed, count):
        stream = synthesis(source, BATCH, seed=seed).batches(0)
        return join([next(stream) for _ in range(0, count, BATCH)])

    return make


@pytest.fixture(scope="package")
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
