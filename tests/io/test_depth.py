"""Depth files: exact numbers, units that are noticed, and damage that is explained."""

import io
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from jrecon.images import MAX_PIXELS
from jrecon.io.depth import UNITS, parse_unit, read_depth, read_mask

FEW = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def counts(rng, shape=(6, 8)):
    values = rng.integers(800, 3000, shape).astype(np.uint16)
    values[0, 0] = 0
    return values


def save(path, values):
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez_compressed(path, depth=values, other=values + 1)
    else:
        Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("name", ("a.png", "a.tif", "a.npy", "a.npz", "A.PNG"))
def test_counts_are_millimetres(tmp_path, rng, name):
    values = counts(rng)
    read = read_depth(save(tmp_path / name, values))
    assert read.depth.dtype == np.float32 and read.size == (8, 6)
    np.testing.assert_array_equal(read.depth, (values * 1e-3).astype(np.float32))
    assert any("97.9% of the pixels" in note for note in read.notes)


def test_pgm(tmp_path, rng):
    values = counts(rng)
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5\n8 6\n65535\n" + values.astype(">u2").tobytes())
    np.testing.assert_allclose(read_depth(path).depth, values * 1e-3, rtol=1e-6)


@pytest.mark.parametrize("name", ("a.tif", "a.npy", "a.npz"))
def test_floats_are_metres_and_holes_are_zero(tmp_path, name):
    values = np.full((4, 5), 2.5, np.float32)
    values[0, :4] = np.nan, np.inf, -np.inf, -1
    read = read_depth(save(tmp_path / name, values))
    np.testing.assert_array_equal(read.depth[0], [0, 0, 0, 0, 2.5])
    assert any("negative" in note for note in read.notes)


@pytest.mark.parametrize("unit, metres", [("tum", 1 / 5000), (2e-4, 2e-4), ("0.001", 1e-3)])
def test_units(tmp_path, rng, unit, metres):
    values = counts(rng)
    read = read_depth(save(tmp_path / "a.png", values), unit=unit)
    np.testing.assert_allclose(read.depth, values * metres, rtol=1e-6)
    assert read.unit_m == metres


@pytest.mark.parametrize("unit", ("inch", "", "nan", "-1", 0, float("inf"), None))
def test_units_that_are_none(unit):
    with pytest.raises(ValueError, match="metres per count"):
        parse_unit(unit)


def test_column_major_and_big_endian_arrays(tmp_path, rng):
    values = counts(rng)
    for stored in (
        np.asfortranarray(values),
        values.astype(">u2"),
        values[None],
        values[..., None],
    ):
        np.save(tmp_path / "a.npy", stored)
        np.testing.assert_allclose(read_depth(tmp_path / "a.npy").depth, values * 1e-3, rtol=1e-6)


def test_largest_count_is_no_return(tmp_path, rng):
    values = counts(rng)
    values[2] = 65535
    read = read_depth(save(tmp_path / "a.png", values))
    assert not read.depth[2].any() and any("65535" in note for note in read.notes)


@pytest.mark.parametrize(
    "values, unit, match",
    [
        (np.full((4, 4), 2000.0), None, r"median depth of 2e\+03 m.*mm \(2 m\)"),
        (np.full((4, 4), 2, np.uint16), None, r"median depth of 0.002 m.*m \(2 m\)"),
        (np.full((4, 4), 2000, np.uint16), "m", r"median depth of 2e\+03 m with 1 m per count"),
        (
            np.full((4, 4), 30000, np.uint16),
            None,
            r"median depth of 30 m .*not stated.*tum \(6 m\)",
        ),
        (np.zeros((4, 4), np.uint16), None, "no depth: none of 16 pixels"),
        (np.full((4, 4), np.nan), None, "no depth"),
        (np.full((4, 4), -2.0), None, "no depth.*negate it"),
        (np.zeros((4, 4), np.uint8), None, "too coarse for depth"),
        (np.zeros(4), None, r"shape \(4,\), need one depth map"),
        (np.zeros((4, 4, 3)), None, "need one depth map"),
        (np.zeros((0, 4)), None, "pixels, need 1 to"),
        (np.array([["a"]]), None, "need integers or floats"),
        (np.zeros((2, 2), complex), None, "need integers or floats"),
    ],
)
def test_what_makes_no_sense_is_explained(tmp_path, values, unit, match):
    path = save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match=match) as caught:
        read_depth(path, unit=unit)
    assert "a.npy" in str(caught.value)


def test_units_in_doubt_are_noted(tmp_path, rng):
    far = rng.integers(9000, 14000, (20, 20)).astype(np.uint16)
    path = save(tmp_path / "a.png", far)
    assert any("doubtful unit" in note and "tum" in note for note in read_depth(path).notes)
    assert not any("doubtful" in note for note in read_depth(path, unit="tum").notes)


def test_wrong_unit_of_real_frames_is_noticed(shared_dir):
    for path in sorted((shared_dir / "data/hand_sr305").glob("*_depth.png")):
        assert any("sr305" in note for note in read_depth(path).notes), path.name
        assert not any("doubtful" in note for note in read_depth(path, unit="sr305").notes)
    for path in sorted((shared_dir / "data/people_d435").glob("*_depth.png"))[::8]:
        assert not any("doubtful" in note for note in read_depth(path).notes), path.name
        with pytest.raises(ValueError, match="mm"):
            read_depth(path, unit="m")


def png(width, height, depth=16, color=0, data=b""):
    def chunk(kind, body):
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("size", [(60000, 60000), (9000, 9000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_by_their_header(tmp_path, size):
    path = tmp_path / "a.png"
    path.write_bytes(png(*size))
    with pytest.raises(ValueError, match=f"at most {MAX_PIXELS}|too large|exceeds"):
        read_depth(path)


def test_array_bombs_are_refused_by_their_header(tmp_path):
    head = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
    np.lib.format.write_array_header_1_0(head, shape)
    (tmp_path / "a.npy").write_bytes(head.getvalue())
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", head.getvalue() + bytes(1 << 20))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match="pixels, need 1 to"):
            read_depth(tmp_path / name)


def test_damaged_files_are_explained(tmp_path, rng):
    whole = save(tmp_path / "a.png", rng.integers(500, 4000, (60, 80)).astype(np.uint16))
    path = tmp_path / "cut.png"
    path.write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cut\.png: .*truncated"):
        read_depth(path)
    np.save(tmp_path / "b.npy", np.ones((10, 10)))
    (tmp_path / "c.npy").write_bytes((tmp_path / "b.npy").read_bytes()[:200])
    with pytest.raises(ValueError, match="ends after"):
        read_depth(tmp_path / "c.npy")
    with pytest.raises(ValueError, match="need one named 'depth'"):
        np.savez(tmp_path / "d.npz", a=np.ones((2, 2)), b=np.ones((2, 2)))
        read_depth(tmp_path / "d.npz")


@pytest.mark.parametrize(
    "array, match",
    [
        (np.zeros((4, 4), np.uint8), "mode L, need 16-bit grey"),
        (np.zeros((4, 4, 3), np.uint8), "mode RGB, need 16-bit grey.*picture in colour"),
        (np.zeros((4, 4, 4), np.uint8), "mode RGBA"),
        (np.zeros((4, 4), bool), "mode 1"),
    ],
)
def test_pictures_are_refused(tmp_path, array, match):
    with pytest.raises(ValueError, match=match):
        read_depth(save(tmp_path / "a.png", array))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_depth(tmp_path / "none.png")
    with pytest.raises(OSError):
        (tmp_path / "folder.png").mkdir()
        read_depth(tmp_path / "folder.png")
    with pytest.raises(ValueError, match="suffix '.jpg', need one of .png"):
        read_depth(tmp_path / "a.jpg")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match="cannot identify it as PNG"):
        read_depth(tmp_path / "text.png")


def test_masks(tmp_path):
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3:5] = True
    for name, stored in (("a.png", mask), ("b.png", mask * np.uint8(255)), ("c.npy", mask)):
        np.testing.assert_array_equal(read_mask(save(tmp_path / name, stored), (8, 6)), mask)
    for name in ("b.png", "c.npy"):
        with pytest.raises(ValueError, match="8 x 6.*6 x 8"):
            read_mask(tmp_path / name, (6, 8))
    with pytest.raises(ValueError, match="mask is empty"):
        read_mask(save(tmp_path / "d.png", mask & False), (8, 6))


SEEDS = [".png", ".tif", ".pgm", ".npy", ".npz"]


def seed_files(folder):
    values = np.arange(1000, 1048, dtype=np.uint16).reshape(6, 8)
    for suffix in SEEDS:
        if suffix == ".pgm":
            (folder / "a.pgm").write_bytes(b"P5\n8 6\n65535\n" + values.astype(">u2").tobytes())
        else:
            save(folder / f"a{suffix}", values)
    return {suffix: (folder / f"a{suffix}").read_bytes() for suffix in SEEDS}


@pytest.mark.parametrize("suffix", SEEDS)
@FEW
@given(data=st.data())
def test_damage_raises_nothing_but_value_and_os_errors(tmp_path, suffix, data):
    good = seed_files(tmp_path)[suffix]
    raw = bytearray(good)
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=6)
    ):
        raw[place] = byte
    cut = data.draw(st.integers(0, len(raw)))
    junk = data.draw(st.binary(max_size=40))
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes(data.draw(st.sampled_from([bytes(raw), bytes(raw[:cut]) + junk, junk])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            assert read_depth(path).depth.size <= MAX_PIXELS
        except (ValueError, OSError):
            pass


def test_every_unit_is_metres_per_count():
    assert all(0 < metres <= 1 for metres in UNITS.values())
