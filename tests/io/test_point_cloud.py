"""Point clouds: PLY and PCD, organised or not, and what a camera sees of them."""

import numpy as np
import pytest
import trimesh
from hypothesis import HealthCheck, given, settings, strategies as st

from jrecon.geometry.camera import make_camera, resize
from jrecon.io.point_cloud import camera_of, project_cloud, read_point_cloud

CAMERA = make_camera(60, 62, 31, 24.5, 64, 48)


@pytest.fixture
def depth(rng):
    return rng.uniform(1, 3, (48, 64)).astype(np.float32)


def points_of(depth):
    v, u = np.indices(depth.shape)
    x, y = (u - 31) / 60 * depth, (v - 24.5) / 62 * depth
    return np.stack([x, y, depth], -1).reshape(-1, 3).astype(np.float32)


def pcd(points, data, height=1, fields="x y z rgb", count="1 1 1 1"):
    head = (
        f"# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS {fields}\n"
        f"SIZE 4 4 4 4\nTYPE F F F U\nCOUNT {count}\nWIDTH {len(points) // height}\n"
        f"HEIGHT {height}\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA {data}\n"
    ).encode()
    if data == "ascii":
        return head + b"".join(b"%.9g %.9g %.9g 7\n" % tuple(row) for row in points.tolist())
    record = np.zeros(len(points), [("p", "<f4", 3), ("rgb", "<u4")])
    record["p"] = points
    return head + record.tobytes()


def ply(points, encoding="binary"):
    return trimesh.PointCloud(points).export(file_type="ply", encoding=encoding)


def save(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("data", ("ascii", "binary"))
def test_organised_pcd_is_its_depth_map_again(tmp_path, depth, data):
    cloud = read_point_cloud(save(tmp_path / "a.pcd", pcd(points_of(depth), data, 48)))
    assert cloud.size == (64, 48)
    camera = camera_of(cloud)
    np.testing.assert_allclose(camera.focal, CAMERA.focal, rtol=1e-5)
    np.testing.assert_allclose(camera.center, CAMERA.center, atol=1e-4)
    np.testing.assert_allclose(project_cloud(cloud, camera).depth, depth, rtol=1e-6)


@pytest.mark.parametrize("encoding", ("binary", "ascii"))
def test_ply_is_projected(tmp_path, depth, encoding):
    cloud = read_point_cloud(save(tmp_path / "a.ply", ply(points_of(depth), encoding)))
    assert cloud.size is None and len(cloud.points) == 64 * 48
    np.testing.assert_allclose(project_cloud(cloud, CAMERA).depth, depth, rtol=1e-5)
    with pytest.raises(ValueError, match="not organised"):
        camera_of(cloud)


def test_holes_of_organised_clouds(tmp_path, depth):
    points = points_of(depth)
    points[:100] = np.nan
    points[100:150] = 0
    cloud = read_point_cloud(save(tmp_path / "a.pcd", pcd(points, "binary", 48)))
    expected = depth.copy().reshape(-1)
    expected[:150] = 0
    seen = project_cloud(cloud, camera_of(cloud)).depth
    np.testing.assert_allclose(seen.reshape(-1), expected, rtol=1e-6)


def test_the_nearest_point_is_seen(tmp_path):
    points = np.array([[0, 0, 2], [0, 0, 1.5], [0, 0, 3]], np.float32)
    image = project_cloud(read_point_cloud(save(tmp_path / "a.ply", ply(points))), CAMERA)
    assert np.count_nonzero(image.depth) == 1 and image.depth.max() == 1.5


def test_frames_and_units(tmp_path, depth):
    points = points_of(depth)
    turned = read_point_cloud(save(tmp_path / "gl.ply", ply(points * [1, -1, -1])))
    np.testing.assert_allclose(turned.points, points, atol=1e-6)
    assert any("turned" in note for note in turned.notes)
    millimetres = save(tmp_path / "mm.ply", ply(points * 1000))
    with pytest.raises(ValueError, match="pass the unit mm"):
        read_point_cloud(millimetres)
    scaled = read_point_cloud(millimetres, unit="mm")
    np.testing.assert_allclose(scaled.points, points, rtol=1e-5)
    with pytest.raises(ValueError, match="the camera is inside the cloud"):
        read_point_cloud(save(tmp_path / "in.ply", ply(points - [0, 0, 2])))


def test_sparse_clouds_say_so(tmp_path, depth):
    cloud = read_point_cloud(save(tmp_path / "a.ply", ply(points_of(depth))))
    notes = project_cloud(cloud, resize(CAMERA, 256, 192)).notes
    assert any("sparse" in note for note in notes)
    assert not any("sparse" in note for note in project_cloud(cloud, CAMERA).notes)


def test_points_off_the_image(tmp_path):
    cloud = read_point_cloud(save(tmp_path / "a.ply", ply(np.array([[9.0, 0, 1]]))))
    with pytest.raises(ValueError, match="none of 1 points is in the image"):
        project_cloud(cloud, CAMERA)


def test_clouds_that_no_pinhole_saw(tmp_path, rng):
    points = rng.uniform(1, 2, (48, 64, 3)).reshape(-1, 3).astype(np.float32)
    cloud = read_point_cloud(save(tmp_path / "a.pcd", pcd(points, "binary", 48)))
    with pytest.raises(ValueError, match="off the rays of a pinhole"):
        camera_of(cloud)


EMPTY_PLY = b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nend_header\n"
ONE = np.ones((4, 3), np.float32)


@pytest.mark.parametrize(
    "name, data, match",
    [
        ("a.ply", EMPTY_PLY, "no vertices"),
        ("a.ply", EMPTY_PLY.replace(b"vertex 0", b"vertex 99999999999"), "claims 99999999999"),
        ("a.ply", b"solid", "does not start with 'ply'"),
        ("a.ply", ply(ONE * np.nan), "none of 4 is finite"),
        ("a.pcd", pcd(ONE, "binary")[:-9], "ends after"),
        ("a.pcd", pcd(ONE, "ascii")[:-9], "numbers, need 4 points of 4|ends after"),
        ("a.pcd", pcd(ONE, "binary_compressed"), "pcl_convert_pcd_ascii_binary"),
        ("a.pcd", pcd(ONE, "ascii").replace(b"WIDTH 4", b"WIDTH 4000000"), "too few for"),
        ("a.pcd", pcd(ONE, "ascii").replace(b"WIDTH 4", b"WIDTH 99999999"), "points, need 1 to"),
        ("a.pcd", pcd(ONE, "ascii", fields="a b c d"), "need x, y, z"),
        ("a.pcd", pcd(ONE, "ascii").replace(b"TYPE F", b"TYPE Q"), "types"),
        ("a.pcd", b"FIELDS x y z\n", "does not end in a line DATA"),
        ("a.pcd", b"DATA ascii\n", "lacks FIELDS, HEIGHT"),
        ("a.obj", b"", "suffix '.obj', need .ply or .pcd"),
    ],
)
def test_damage_is_explained(tmp_path, name, data, match):
    with pytest.raises(ValueError, match=match):
        read_point_cloud(save(tmp_path / name, data))


def test_fields_that_repeat_and_come_in_groups(tmp_path, depth):
    points = points_of(depth)
    record = np.zeros(len(points), [("pad", "<f4", 2), ("p", "<f4", 3)])
    record["p"] = points
    head = (
        "VERSION 0.7\nFIELDS _ x y z\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 2 1 1 1\n"
        f"WIDTH {len(points)}\nHEIGHT 1\nPOINTS {len(points)}\nDATA binary\n"
    ).encode()
    cloud = read_point_cloud(save(tmp_path / "a.pcd", head + record.tobytes()))
    np.testing.assert_array_equal(cloud.points, points)


SEEDS = {
    "a.ply": [ply(ONE), ply(ONE, "ascii")],
    "a.pcd": [pcd(ONE, "ascii"), pcd(ONE, "binary")],
}


@pytest.mark.parametrize("name", SEEDS)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_raises_nothing_but_value_and_os_errors(tmp_path, name, data):
    good = data.draw(st.sampled_from(SEEDS[name]))
    at, length = data.draw(st.integers(0, len(good))), data.draw(st.integers(0, 20))
    junk = data.draw(st.binary(max_size=12))
    path = save(tmp_path / name, good[:at] + junk + good[at + length :])
    try:
        cloud = read_point_cloud(path)
    except (ValueError, OSError):
        return
    assert cloud.points.shape[1] == 3
