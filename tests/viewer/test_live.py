"""The live page: limits of uploads, and the whole of it driven in a browser."""

import dataclasses
import io
import re
import socket
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

viser = pytest.importorskip("viser", reason="needs the extra `view`")

from viser import _messages  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402
from websockets.typing import Subprotocol  # noqa: E402

from jrecon.io.sequence import Frame  # noqa: E402
from jrecon.viewer import capture_page, results  # noqa: E402
from jrecon.viewer.capture_page import CapturePage  # noqa: E402
from jrecon.viewer.live import LOOPBACK, allowed_origins, start_server  # noqa: E402
from jrecon.viewer.synthetic_page import SyntheticPage  # noqa: E402
from jrecon.viewer.upload import MAX_BYTES  # noqa: E402
from tests.learn.small_class import rod  # noqa: E402


@pytest.fixture
def server():
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    made = start_server(port=port)
    yield made
    made.stop()


def address(server):
    return f"http://{server.get_host()}:{server.get_port()}"


def send(server, message):
    """As if a page had sent it."""
    for handler in server.gui._websock_interface._incoming_handlers[type(message)]:
        handler(0, message)


def beside(tab, label):
    """The input of a row, by the text before it."""
    row = tab.locator("label", has_text=re.compile(f"^{label}$")).locator("xpath=ancestor::div[2]")
    return row.locator("input").first


def announce(button, size, parts=1, transfer="t"):
    return _messages.FileTransferStartUpload(
        source_component_uuid=button._impl.uuid, transfer_uuid=transfer, filename="../d.png",
        mime_type="image/png", part_count=parts, size_bytes=size,
    )  # fmt: skip


def part(button, content, index=0, transfer="t"):
    return _messages.FileTransferPart(
        source_component_uuid=button._impl.uuid, transfer_uuid=transfer, part_index=index,
        content=content,
    )  # fmt: skip


def test_only_this_machine_is_listened_to(server):
    assert server.get_host() == "127.0.0.1"


def connection(server, origin=None):
    """As a page of that site, or a program, connects."""
    protocol = Subprotocol(f"viser-v{viser.__version__}")
    uri = address(server).replace("http", "ws")
    return connect(uri, origin=origin, subprotocols=[protocol], max_size=None)


def joined(server, origin):
    """Whether it is let in; if so, what it is told first."""
    try:
        with connection(server, origin) as socket:
            return len(socket.recv(timeout=10)) > 0
    except InvalidStatus as refusal:
        assert refusal.response.status_code == 403
        return False


@pytest.mark.parametrize("origin", ("http://localhost:9000", "http://127.0.0.1", "http://[::1]:80"))
def test_pages_of_this_machine_are_let_in(server, origin):
    assert joined(server, origin)


def test_programs_without_an_origin_are_let_in(server):
    assert joined(server, None)


@pytest.mark.parametrize(
    "origin",
    (
        "http://evil.example", "https://localhost.evil.example:8080", "http://127.0.0.1.evil.example",
        "http://evil.example/localhost", "http://localhost@evil.example", "null", "file://",
        "http://192.168.1.5:8080", "http://127.0.0.1:80.evil.example",
    ),
)  # fmt: skip
def test_pages_of_other_sites_are_refused(server, origin):
    assert not joined(server, origin)


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    (
        ("0.0.0.0", "http://192.168.1.5:8080", True),
        ("0.0.0.0", "http://localhost:8080", True),
        ("0.0.0.0", "http://rebound.example:8080", False),
        ("::", "http://[fe80::1]:8080", True),
        ("192.168.1.5", "http://192.168.1.5:8080", True),
        ("192.168.1.5", "http://192.168.1.6:8080", False),
        ("fe80::1", "http://[fe80::1]:8080", True),
        ("workstation.lan", "http://workstation.lan:8080", True),
        ("workstation.lan", "http://workstation-lan:8080", False),
    ),
)
def test_where_else_a_page_may_be_from(host, origin, allowed):
    none, pattern = allowed_origins(host)
    assert none is None
    assert pattern is not None
    assert bool(pattern.fullmatch(origin)) == allowed


def test_a_viser_that_starts_otherwise_is_not_trusted(monkeypatch):
    monkeypatch.setattr(viser, "ViserServer", lambda **settings: None)
    with pytest.raises(RuntimeError, match="other sites"):
        start_server()


def test_uploads_are_limited(server):
    button = server.gui.add_upload_button("file")
    under_way = server.gui._current_file_upload_states
    for size in (2 * 2**30, MAX_BYTES + 1, -5):
        send(server, announce(button, size))
        assert under_way == {}
    # Announced small, but larger.
    half = bytes(2**19)
    send(server, announce(button, 2**19 + 10, parts=2))
    send(server, part(button, half))
    assert len(under_way) == 1
    send(server, part(button, half, index=1))
    assert under_way == {}
    send(server, part(button, half, index=1))
    assert under_way == {}
    for count in range(50):
        send(server, announce(button, 2**20, parts=2, transfer=str(count)))
    assert len(under_way) <= 4


def test_many_parts_of_nothing_are_refused(server):
    button = server.gui.add_upload_button("file")
    send(server, announce(button, 600_000, parts=2))
    send(server, announce(button, 600_000, parts=3, transfer="u"))
    assert list(server.gui._current_file_upload_states) == ["t"]


def test_refused_uploads_leave_nothing_behind(server):
    """viser keeps what it sends for pages that are yet to come."""
    button = server.gui.add_upload_button("file")
    kept = server.gui._websock_interface.get_message_buffer().message_from_id
    for count in range(100):
        send(server, announce(button, 2 * 2**30, transfer=str(count)))
    send(server, announce(button, 2 * 2**30, transfer="x" * 2**20))
    acks = [one for one in kept.values() if isinstance(one, _messages.FileTransferPartAck)]
    assert 0 < len(acks) < 20
    assert max(len(one.transfer_uuid) for one in acks) < 64


def test_images_of_many_sizes_leave_little_behind(server, shown, monkeypatch):
    monkeypatch.setattr(capture_page, "_SIZES", 2)
    recon, _, depth, camera, _ = shown
    page = CapturePage(server, results.Subject(recon, recon.model, None))
    programs: Any = results._gaps
    kept = []
    for cut in range(4):
        part = dataclasses.replace(camera, height=camera.height - cut)
        page.show(Frame(depth[: part.height], part, "a.png", None, ()))
        page.redraw()
        kept.append(programs._cache_size())
    assert kept[1] == kept[0] + 1
    assert kept[2:] == [1, 2]


def test_messages_name_no_folders():
    from jrecon.viewer.capture_page import _plain

    said = _plain(ValueError("camera '/home/me/my_rig/K.json': got 4/5 numbers, see docs/inputs"))
    assert "home" not in said and "rig" not in said
    assert "K.json" in said.replace("\\", "") and "4/5" in said and "docs/inputs" in said


def test_the_page_cannot_be_shared_through_another_server(server):
    handled = set(server.gui._websock_interface._incoming_handlers)
    assert _messages.FileTransferPart in handled
    assert not handled & {_messages.ShareUrlRequest, _messages.ShareUrlDisconnect}


def test_a_long_message_ends_the_connection_while_it_arrives(server):
    with connection(server) as socket:
        # The header of a frame of 40 MB, and a part of it: the server does not wait for the rest.
        socket.socket.sendall(bytes([0x82, 0xFF]) + (40 * 2**20).to_bytes(8, "big") + bytes(1000))
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                socket.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    assert joined(server, None)


def test_synthetic_page_follows_its_sliders(server):
    page = SyntheticPage(server, rod())
    assert page.worker.wait(120)
    assert page.status.startswith("**stereo**"), page.status
    before = page.picture
    page.aim("ideal", compare=True)
    assert page.worker.wait(120)
    assert (page.picture != before).any()
    assert "median error of 0.0 mm" in page.status


@pytest.mark.browser
def test_files_are_dropped_onto_the_page(server, browser, shown):
    recon = shown[0]
    page = CapturePage(server, results.Subject(recon, recon.model, None))
    tab = browser.new_page()
    tab.goto(address(server))
    tab.get_by_text("or drop it anywhere on this page").wait_for()
    tab.wait_for_function("window.jreconDrops")
    drop = """(names) => {
        const data = new DataTransfer();
        for (const name of names) data.items.add(new File(["no depth"], name));
        const settings = { dataTransfer: data, bubbles: true, cancelable: true };
        const over = new DragEvent("dragover", settings);
        const taken = new DragEvent("drop", settings);
        document.querySelector("canvas").dispatchEvent(over);
        document.querySelector("canvas").dispatchEvent(taken);
        return over.defaultPrevented && taken.defaultPrevented;
    }"""
    # The browser must not leave the page to show the file itself; of several the first is taken.
    for names in (["a.txt"], ["b.txt", "c.txt"], ["a.txt"]):
        assert tab.evaluate(drop, names)
        tab.get_by_text(f"{names[0]}: need a depth map").wait_for()
        assert page.worker.wait(20)
        page.say("")
    assert tab.evaluate(drop, [])
    tab.close()


@pytest.mark.slow
@pytest.mark.browser
def test_a_capture_is_reconstructed_from_the_page(server, browser, shared_dir, tmp_path):
    page = CapturePage(server, results.load_subject())
    tab = browser.new_page(viewport={"width": 1300, "height": 1100})
    wrong = []
    tab.on("pageerror", lambda error: wrong.append(error))
    tab.goto(address(server))
    status = tab.get_by_text("Choose a depth map.")
    status.wait_for()

    def upload(name, content):
        upload_file = {"name": name, "mimeType": "image/png", "buffer": content}
        tab.locator("input[type=file]").set_input_files(upload_file)

    # What is no depth map is refused, and the page lives on.
    upload("../../evil.exe", b"MZ")
    tab.get_by_text("evil.exe: need a depth map").wait_for()
    upload("depth.png", (shared_dir / "data/people_d435/n40_00020_depth.png").read_bytes())
    tab.get_by_text("depth.png: no camera").wait_for()

    beside(tab, "camera").fill("617.25,617.549,317.392,245.98")
    tab.keyboard.press("Enter")
    tab.wait_for_timeout(500)
    upload("person.png", (shared_dir / "data/people_d435/n40_00020_depth.png").read_bytes())
    tab.get_by_text(re.compile("person.png: reconstructing")).wait_for()
    assert page.worker.wait(400)
    assert "mm apart" in page.status, page.status
    assert page.found is not None
    assert page.found.verdict.word in ("good", "doubtful")

    look = lambda: np.asarray(Image.open(io.BytesIO(tab.screenshot())).convert("RGB")).astype(int)
    before = look()
    tab.get_by_role("tab", name="Show").click()
    beside(tab, "skeleton").check()
    beside(tab, "points of the object").uncheck()
    tab.wait_for_timeout(1000)
    assert (look() != before).mean() > 0.001

    tab.get_by_role("tab", name="Model").click()
    shape = np.array(page.panel.edits.now.shape)
    tab.get_by_role("slider").nth(1).focus()
    for _ in range(5):
        tab.keyboard.press("ArrowRight")
    tab.wait_for_timeout(1000)
    changed = np.asarray(page.panel.edits.now.shape)
    assert np.flatnonzero(changed != shape).tolist() == [1]
    tab.get_by_role("button", name="undo").click()
    tab.wait_for_timeout(500)
    np.testing.assert_array_equal(page.panel.edits.now.shape, shape)
    tab.get_by_role("button", name="redo").click()
    tab.wait_for_timeout(500)
    np.testing.assert_array_equal(page.panel.edits.now.shape, changed)
    tab.get_by_role("button", name="reset").click()
    tab.wait_for_timeout(500)
    np.testing.assert_array_equal(page.panel.edits.now.shape, shape)
    tab.get_by_role("button", name="redo").click()

    tab.get_by_role("tab", name="Result").click()
    refined = page.found
    drawn = tab.locator("img").last.get_attribute("src")
    tab.get_by_role("button", name="Refine again").click()
    tab.get_by_text("Refining; the first time").wait_for()
    assert page.worker.wait(400)
    assert page.found is not refined
    history = np.asarray(page.found.result.fit.history)
    assert np.isfinite(history).all()
    tab.get_by_text("person.png: ").wait_for()
    tab.wait_for_timeout(1000)
    # The last picture is the chart of the energy.
    assert tab.get_by_text("Energy").is_visible()
    assert tab.locator("img").last.get_attribute("src") != drawn

    with tab.expect_download(timeout=120_000) as download:
        tab.get_by_role("button", name="Download").click()
    path = tmp_path / "person.glb"
    download.value.save_as(path)
    mesh = trimesh.load(path, force="mesh")
    assert 1.3 < np.ptp(mesh.bounds, axis=0).max() < 2.3
    assert wrong == []
