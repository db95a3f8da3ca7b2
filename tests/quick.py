"""For what runs a few times only: compiling takes nearly all of a test's time, and unoptimised code
comes out in half of it."""

import functools

import jax

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
