"""Single examples as PNG and JSON: round trips, and every bad input explained."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import jrecon
from jrecon.geometry.camera import Camera
from jrecon.model.parametric import Params, make_model, pose
from jrecon.synth.example import Example
from jrecon.synth.exchange import (
    export_example,
    import_database,
    import_examples,
    list_examples,
)
from jrecon.synth.reading import open_database, read, verify_database

WIDTH, HEIGHT, JOINTS, SHAPE = 18, 16, 2, 3


@pytest.fixture(scope="module")
def model() -> jrecon.ParametricModel:
    rng = np.random.default_rng(0)
    return make_model(
        rng.normal(size=(5, 3)).astype(np.float32),
        np.array([[0, 1, 2], [2, 3, 4]]),
        shape_basis=rng.normal(size=(5, 3, SHAPE)).astype(np.float32),
        joints=rng.normal(size=(JOINTS, 3)).astype(np.float32),
        joint_basis=rng.normal(size=(JOINTS, 3, SHAPE)).astype(np.float32),
        parents=(-1, 0),
        weights=np.full((5, JOINTS), 0.5, np.float32),
    )


def make_example(number: int) -> Example:
    rng: Any = np.random.default_rng(number)
    draw: Any = lambda *size: rng.normal(size=size).astype(np.float32)
    depth = rng.uniform(0.5, 6.5, (HEIGHT, WIDTH)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.3] = 0
    return Example(
        depth=depth,
        mask=(depth > 0) & (rng.random(depth.shape) < 0.5),
        camera=Camera(100 + draw(2), 8 + draw(2), WIDTH, HEIGHT),
        params=Params(draw(SHAPE), draw(JOINTS, 3), draw(3)),
        joints=draw(JOINTS, 3),
        sensor=np.asarray(number, np.int32),  # pyright: ignore[reportArgumentType]
        visible=draw(1)[0],
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for number in range(5):
        export_example(pairs / f"{number:03d}", make_example(number), unit_mm=0.1)
    return pairs


def edit(path: Path, **changes: Any) -> Path:
    """Changes keys of a JSON file; None removes one."""
    record = json.loads(path.read_text())
    record = {key: value for key, value in {**record, **changes}.items() if value is not None}
    path.write_text(json.dumps(record))
    return path


def assert_same(got: Example, want: Example) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    np.testing.assert_allclose(got.depth, want.depth, rtol=0, atol=0.5e-4 + 1e-6)
    for a, b in zip(jax.tree.leaves(got)[1:], jax.tree.leaves(want)[1:], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_round_trip(folder):
    paths = list_examples(folder)
    assert [path.name for path in paths] == [f"00{number}.json" for number in range(5)]
    want = jax.tree.map(lambda *leaves: np.stack(leaves), *map(make_example, range(5)))
    assert_same(import_examples(paths), want)


def test_files_are_what_people_expect(tmp_path, folder):
    example = make_example(2)
    image = Image.open(folder / "002.png")
    assert (image.mode, image.size) == ("I;16", (WIDTH, HEIGHT))
    np.testing.assert_allclose(np.array(image) * 1e-4, example.depth, rtol=0, atol=0.51e-4)
    mask = np.array(Image.open(folder / "002_mask.png"))
    np.testing.assert_array_equal(mask, np.where(example.mask, 255, 0))
    record = json.loads((folder / "002.json").read_text())
    camera = np.array([record[key] for key in ("fx", "fy", "cx", "cy")], np.float32)
    np.testing.assert_array_equal(
        camera, np.concatenate([example.camera.focal, example.camera.center])
    )
    assert record["depth_unit_mm"] == 0.1
    files = export_example(tmp_path / "one.json", example, joint_names=["hip", "knee"])
    assert [file.name for file in files] == ["one.png", "one_mask.png", "one.json"]
    assert json.loads(files[2].read_text())["joint_names"] == ["hip", "knee"]


def test_nothing_is_overwritten_silently(folder):
    before = (folder / "001.png").read_bytes()
    (folder / "001.json").unlink()
    with pytest.raises(FileExistsError, match=r"001\.png, .*001_mask\.png: exists"):
        export_example(folder / "001", make_example(4))
    assert (folder / "001.png").read_bytes() == before
    export_example(folder / "001", make_example(4), overwrite=True)
    assert (folder / "001.png").read_bytes() != before


def test_export_explains(tmp_path):
    batch = jax.tree.map(lambda leaf: leaf[None], make_example(0))
    with pytest.raises(ValueError, match="one by one"):
        export_example(tmp_path / "a", batch)
    with pytest.raises(FileNotFoundError, match="create it first"):
        export_example(tmp_path / "none" / "a", make_example(0))
    with pytest.raises(ValueError, match="16 bits in steps of 0.01 mm"):
        export_example(tmp_path / "a", make_example(0), unit_mm=0.01)
    with pytest.raises(ValueError, match="unit_mm: got 0, need the step"):
        export_example(tmp_path / "a", make_example(0), unit_mm=0)
    lost = make_example(0)
    lost.depth[3, 3] = np.nan  # pyright: ignore[reportIndexIssue]
    with pytest.raises(ValueError, match="example 0 spans nan"):
        export_example(tmp_path / "a", lost)
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_out_has_defaults(folder, model):
    path = edit(folder / "003.json", mask=None, sensor=None, visible=None, joints=None, depth=None)
    got = import_examples([path], model)
    want = make_example(3)
    np.testing.assert_array_equal(got.mask[0], want.depth > 0)
    assert (got.sensor, got.visible) == ([-1], [1])
    np.testing.assert_allclose(got.joints[0], pose(model, want.params).joints, rtol=1e-6)
    with pytest.raises(ValueError, match=r"003\.json: no 'joints'; add them, or pass the model"):
        import_examples([path])


@pytest.mark.parametrize(
    "changes, expected",
    (
        ({"fx": None}, r"000\.json: no 'fx'; need a number"),
        ({"fx": "wide"}, r"fx: got 'wide', need a number"),
        ({"fy": -5}, "need a focal length > 0"),
        ({"width": 16.5}, "need whole pixels"),
        ({"width": 20}, r"000\.png: got 18 x 16 pixels, but 000\.json says 20 x 16"),
        ({"depth_unit_mm": None}, "no 'depth_unit_mm'"),
        ({"depth_unit_mm": 0}, "depth_unit_mm: got 0.0, need mm per step"),
        ({"pose": [1, 2, 3]}, r"pose: got shape \(3,\), need numbers of shape \(n, 3\)"),
        ({"pose": [[1, 2, 3]]}, r"joints: got shape \(2, 3\), need numbers of shape \(1, 3\)"),
        ({"translation": [0, float("nan"), 0]}, "translation: holds NaN"),
        ({"shape": [0.5]}, "1 shape coefficients and 2 joints; the model .* has 3 and 2"),
        ({"depth": "../secret.png"}, "need the name of a file beside it"),
        ({"depth": "none.png"}, r"none\.png: .*No such file"),
        ({"depth": "000_mask.png"}, "mode L, need 16-bit grey"),
        ({"mask": "000.png"}, "mode I;16, need 8-bit grey"),
        ({"format": "coco"}, "not a jrecon-example"),
        ({"version": 2}, "got version 2"),
    ),
)
def test_import_explains(folder, model, changes, expected):
    with pytest.raises(ValueError, match=expected):
        import_examples([edit(folder / "000.json", **changes)], model)


def test_import_explains_damaged_files(folder, tmp_path):
    data = (folder / "000.png").read_bytes()
    (folder / "000.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"000\.png: "):
        import_examples([folder / "000.json"])
    (folder / "000.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"000\.png: cannot identify"):
        import_examples([folder / "000.json"])
    (folder / "000.json").write_text("{")
    with pytest.raises(ValueError, match=r"000\.json: not a readable JSON"):
        import_examples([folder / "000.json"])
    with pytest.raises(ValueError, match="need a folder of pairs"):
        list_examples(tmp_path / "none")
    with pytest.raises(ValueError, match="got none"):
        import_examples([])


def test_folder_becomes_a_database(folder, tmp_path):
    out = tmp_path / "db"
    assert import_database(folder, out, shard_size=2) == 5
    assert import_database(folder, out, shard_size=2) == 0
    db = open_database(out)
    want = jax.tree.map(lambda *leaves: np.stack(leaves), *map(make_example, range(5)))
    assert_same(read(db, np.arange(5)), want)
    assert db.manifest["depth_unit_mm"] == 0.1
    assert verify_database(out).ok
    edit(folder / "004.json", sensor=9)
    with pytest.raises(ValueError, match=r"config\.sha256"):
        import_database(folder, out, shard_size=2)


def test_examples_of_a_database_are_exported_and_come_back(folder, tmp_path):
    import_database(folder, tmp_path / "db")
    db = open_database(tmp_path / "db")
    shutil.rmtree(folder)
    folder.mkdir()
    for index in range(len(db)):
        export_example(folder / f"{index:03d}", db[index], unit_mm=0.1)
    assert_same(import_examples(list_examples(folder)), read(db, np.arange(5)))


def test_sizes_must_agree(folder, tmp_path):
    edit(folder / "004.json", shape=[0.0])
    with pytest.raises(ValueError, match=r"004\.json: 18 x 16 pixels, 1 shape .*000\.json: .* 3"):
        import_database(folder, tmp_path / "db")
    assert not (tmp_path / "db").exists()
