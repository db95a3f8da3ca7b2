"""Programs that are kept on disk do what the functions do that they were traced from."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jrecon.cli.reconstruct
from jrecon import programs
from jrecon.fit.fitter import make_fitter
from jrecon.fit.solve import FitConfig
from jrecon.fit.track import TrackConfig
from jrecon.learn.regressor import make_regressor
from jrecon.programs import kept_program
from jrecon.reconstructor import (
    Reconstructor,
    _blank_reconstruction,
    _look,
    reconstruct_views,
    start_track,
    track_views,
)
from tests.fit.test_solve import CAMERA
from tests.learn.small_class import NETWORK, rod

BOTH = lambda: {"sum": 0, "product": 0}


@jax.jit
def both(a, b):
    return {"sum": a + b, "product": a * b}


def _forbidden(a, b):
    raise AssertionError("traced again")


# What another process sees of a function is its name.
_forbidden.__qualname__ = "both"
forbidden = jax.jit(_forbidden)


@jax.jit
def calling_back(a, b):
    total = jax.pure_callback(lambda x: np.asarray(x) + 1, jax.typeof(a), a)
    return {"sum": total, "product": a * b}


@pytest.fixture
def folder(tmp_path):
    """An empty folder of compiled code."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / "programs"
    programs._ahead.clear()
    jax.config.update("jax_compilation_cache_dir", before)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


def test_the_next_process_does_not_trace(folder) -> None:
    arguments = jnp.arange(3.0), 2.0
    first = kept_program(both, BOTH)(*arguments)
    # What a process keeps in memory is not there: the file is read.
    again = kept_program(forbidden, BOTH)(*arguments)
    for one in (first, again):
        np.testing.assert_array_equal(one["sum"], [2.0, 3.0, 4.0])
        np.testing.assert_array_equal(one["product"], [0.0, 2.0, 4.0])
    assert len(files(folder)) == 1


def test_the_program_used_last_is_loaded_ahead(folder, monkeypatch) -> None:
    for size in (2, 3):
        kept_program(both, BOTH)(jnp.zeros(size), 2.0)
        for path in files(folder):
            os.utime(path, (0, path.stat().st_mtime - 10))
    assert programs.read_ahead(both.__module__, "both")
    (ahead,) = programs._ahead.values()
    assert ahead.exception() is None
    monkeypatch.setattr(programs, "_read_program", forbidden)
    run = kept_program(forbidden, BOTH)
    for _ in range(2):
        np.testing.assert_array_equal(run(jnp.arange(3.0), 2.0)["sum"], [2.0, 3.0, 4.0])
    assert not programs._ahead


def test_what_is_loaded_ahead_is_not_used_for_anything_else(folder) -> None:
    other = jax.devices()[1]
    there = jax.device_put(jnp.ones(3), other), jax.device_put(2.0, other)
    kept_program(both, BOTH)(*there)
    # Loaded for the first device, as a file does not say for which.
    assert programs.read_ahead(both.__module__, "both")
    assert kept_program(both, BOTH)(*there)["sum"].devices() == {other}
    assert programs.read_ahead(both.__module__, "both")
    assert float(kept_program(both, BOTH)(jnp.ones(4), 2.0)["sum"][3]) == 3.0
    with jax.default_matmul_precision("highest"):
        assert not programs.read_ahead(both.__module__, "both")
    for path in files(folder):
        path.write_bytes(b"damaged")
    assert not programs.read_ahead(both.__module__, "both")
    assert float(kept_program(both, BOTH)(jnp.ones(3), 2.0)["sum"][0]) == 3.0
    for unusable in (str(folder / "none"), str(folder / ("x" * 300)), ""):
        jax.config.update("jax_compilation_cache_dir", unusable)
        assert not programs.read_ahead(both.__module__, "both")


def test_what_cannot_be_loaded_ahead_is_compiled_in_the_usual_way(folder, monkeypatch) -> None:
    kept_program(both, BOTH)(jnp.zeros(3), 2.0)
    with monkeypatch.context() as broken:
        broken.setattr(programs, "_compiled", _forbidden)
        assert programs.read_ahead(both.__module__, "both")
        assert isinstance(next(iter(programs._ahead.values())).exception(), AssertionError)
    assert float(kept_program(both, BOTH)(jnp.ones(3), 2.0)["sum"][0]) == 3.0


def test_the_command_names_the_program_that_it_uses() -> None:
    named = reconstruct_views.__module__, reconstruct_views.__qualname__
    assert jrecon.cli.reconstruct._PROGRAM == named


def test_within_a_transformation_the_function_is_traced(folder) -> None:
    run = kept_program(both, BOTH)
    slope = jax.grad(lambda a: run(a, 2.0)["product"])(3.0)
    assert float(slope) == 2.0 and not folder.exists()
    np.testing.assert_array_equal(jax.vmap(run, (0, None))(jnp.arange(3.0), 2.0)["sum"], [2, 3, 4])


def test_options_that_do_not_exist_are_left_out(folder, monkeypatch) -> None:
    monkeypatch.setattr(programs, "CPU_OPTIONS", {"xla_no_such_option": True})
    assert float(kept_program(both, BOTH)(jnp.ones(3), 2.0)["sum"][0]) == 3.0


def test_other_shapes_types_and_sources_are_other_programs(folder, monkeypatch) -> None:
    run = kept_program(both, BOTH)
    run(jnp.zeros(3), 2.0)
    for number, argument in enumerate((jnp.zeros(4), jnp.zeros(3, jnp.int32)), 2):
        run(argument, 2.0)
        assert len(files(folder)) == number
    with jax.default_matmul_precision("highest"):
        run(jnp.zeros(3), 2.0)
    run(jax.device_put(jnp.zeros(3), jax.devices()[1]), jax.device_put(2.0, jax.devices()[1]))
    kept_program(calling_back, BOTH)(jnp.zeros(3), 2.0)
    assert len(files(folder)) == 5
    monkeypatch.setattr(programs, "source", lambda: "changed")
    with pytest.raises(AssertionError, match="traced again"):
        kept_program(forbidden, BOTH)(jnp.zeros(3), 2.0)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b""])
def test_a_damaged_program_is_replaced(folder, damage) -> None:
    kept_program(both, BOTH)(jnp.zeros(3), 2.0)
    (path,) = files(folder)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert float(kept_program(both, BOTH)(jnp.ones(3), 2.0)["sum"][0]) == 3.0
    assert jax.export.deserialize(bytearray(path.read_bytes())).nr_devices == 1


def test_a_program_is_compiled_once_even_if_it_cannot_be_kept(folder, monkeypatch) -> None:
    folder.write_text("a file")
    made = []
    make = programs._make_ready
    monkeypatch.setattr(programs, "_make_ready", lambda *a: made.append(1) or make(*a))
    for function in (both, calling_back):
        run = kept_program(function, BOTH)
        for _ in range(3):
            run(jnp.zeros(3), 2.0)
    assert len(made) == 2


def test_code_that_has_changed_since_is_not_kept(folder, monkeypatch) -> None:
    monkeypatch.setattr(programs, "_digest_of_source", lambda: "edited meanwhile")
    assert float(kept_program(both, BOTH)(1.0, 2.0)["sum"]) == 3.0
    assert not folder.exists()


def test_what_calls_back_is_called_itself(folder) -> None:
    assert float(kept_program(calling_back, BOTH)(jnp.ones(()), 2.0)["sum"]) == 2.0
    assert not folder.exists()


def test_old_programs_go(folder, monkeypatch) -> None:
    monkeypatch.setattr(programs, "_KEPT", 2)
    for size in (2, 3, 4, 5):
        kept_program(both, BOTH)(jnp.zeros(size), 2.0)
    assert len(files(folder)) == 2


def test_without_a_folder_the_function_is_called(folder) -> None:
    jax.config.update("jax_compilation_cache_dir", None)
    assert float(kept_program(both, BOTH)(1.0, 2.0)["sum"]) == 3.0
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_stops_nothing(folder) -> None:
    folder.write_text("a file")
    assert float(kept_program(both, BOTH)(1.0, 2.0)["sum"]) == 3.0


def test_the_structure_of_a_reconstruction() -> None:
    model = rod(0.1)
    function = make_regressor(model, jax.random.key(0), NETWORK)
    recon = Reconstructor(function, make_fitter(model), FitConfig())
    image = jnp.zeros((CAMERA.height, CAMERA.width))
    seen = jax.eval_shape(lambda d: _look(d, CAMERA, d > 0, NETWORK.image), image)
    found = jax.eval_shape(reconstruct_views, recon, *seen)
    assert jax.tree.structure(found) == jax.tree.structure(_blank_reconstruction())
    tracked = jax.eval_shape(track_views, recon, TrackConfig(), start_track(recon), *seen)
    assert jax.tree.structure(tracked[1]) == jax.tree.structure(found)
    assert jax.tree.structure(tracked[0]) == jax.tree.structure(start_track(recon))
