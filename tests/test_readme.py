"""The Python in the README runs as it stands."""

import pathlib
import re

import jax
import numpy as np

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"


def test_python_in_the_readme_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    names: dict = {}
    monkeypatch.chdir(tmp_path)
    # Readers have JAX's default, which lets (v, 3) meet (3,).
    with jax.numpy_rank_promotion("allow"):
        exec(compile("\n".join(blocks), str(README), "exec"), names)
    for name in ("person.glb", "found.glb"):
        assert (tmp_path / name).stat().st_size > 0
    depth = np.asarray(names["view"].depth)
    assert depth.shape == (480, 320)
    assert 2.5 < depth[depth > 0].min() < depth.max() < 3.5
