"""`jrecon view`: a page in the browser to look at captures, results and synthesis."""

from __future__ import annotations

import dataclasses
import importlib.util
import socket
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from jrecon.cli.command import Command, Report
from jrecon.cli.progress import doing, say

if TYPE_CHECKING:
    from viser import ViserServer

    from jrecon.io.sequence import Capture


@dataclasses.dataclass(frozen=True, kw_only=True)
class View(Command):
    """Look at a depth map, a folder of them, or at synthesis, in a page in the browser.

    The page shows the measured points, the model over them, its skeleton and the camera; the model
    can be changed by sliders and fitted again. The frames of a folder are followed through, and can
    be played. Files can be dropped onto the page.

    Needs the extra `view`: pip install 'jrecon[view]'.

    Example: jrecon view depth.png --camera d435
    """

    path: Annotated[Positional[Path | None], arg(metavar="PATH")] = None
    """A depth map, a folder of them or a ROS bag; see docs/inputs.md. Others are opened from the
    page."""
    camera: Annotated[str | None, arg(metavar="CAMERA")] = None
    """File with intrinsics, `fx,fy,cx,cy`, or the name of a sensor (d435, kinect2, ...)."""
    unit: Annotated[str | None, arg(metavar="UNIT")] = None
    """Of depth: m, mm, tum, or metres for one count; by the format if left out."""
    synthetic: bool = False
    """Change shape, pose, viewpoint and sensor, and watch the depth map change."""
    function: str = "body"
    """What to look for: `body`, or a file that `jrecon train` wrote."""
    host: str = "127.0.0.1"
    """Address to listen on. Other than this machine's own, whoever reaches it can use the page."""
    port: int = 8080
    """Or the next one that is free."""
    open_browser: bool = False
    """Open the page in the browser."""

    def run(self) -> Report:
        capture = self._check()
        from jrecon.programs import keep_compiled

        keep_compiled()
        from jrecon.viewer.live import start_server

        server = start_server(self.host, self.port)
        url = f"http://{server.get_host()}:{server.get_port()}"
        if self.synthetic:
            self._show_synthetic(server)
        else:
            self._show_capture(server, capture)
        say(f"the page is at {url}; end with Ctrl-C.")
        if self.open_browser:
            webbrowser.open(url)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            server.stop()
        return {}

    def _check(self) -> Capture | None:
        """Everything that can be refused before the page is there."""
        if importlib.util.find_spec("viser") is None:
            raise ImportError("jrecon view needs viser: pip install 'jrecon[view]'.")
        if self.synthetic and self.path is not None:
            raise ValueError(f"--synthetic shows no capture; leave out {self.path}.")
        if not 0 < self.port < 2**16:
            raise ValueError(f"port: got {self.port}, need 1 to {2**16 - 1}.")
        # The library under the page waits for ever for an address that is not there.
        try:
            found = socket.getaddrinfo(self.host, 0, type=socket.SOCK_STREAM)
            family, kind, _, _, address = found[0]
            with socket.socket(family, kind) as listener:
                listener.bind(address)
        except OSError as error:
            raise ValueError(
                f"host: cannot listen on {self.host!r} ({error.strerror}); need an address of this "
                "machine, as 127.0.0.1."
            ) from error
        if self.path is None:
            return None
        from jrecon.io.sequence import open_capture

        capture = open_capture(self.path, camera=self.camera, unit=self.unit)
        # A wrong file, unit or camera is told here, not on a page.
        capture.read(0)
        return capture

    def _show_synthetic(self, server: ViserServer) -> None:
        from jrecon.reconstructor import load
        from jrecon.viewer.synthetic_page import SyntheticPage

        with doing("loading the model"):
            SyntheticPage(server, load(self.function).model)

    def _show_capture(self, server: ViserServer, capture: Capture | None) -> None:
        from jrecon.viewer.capture_page import CapturePage
        from jrecon.viewer.results import load_subject

        with doing("loading the model and its function"):
            subject = load_subject(self.function)
        page = CapturePage(server, subject, camera=self.camera, unit=self.unit)
        if capture is not None:
            page.worker.submit("open", lambda: page.open(capture))
