"""The server of the live page: on this machine alone unless told otherwise, with limited uploads.

The page can name no file of this machine: it shows what the command line named, and what it
uploads. Built on viser (https://viser.studio), an optional dependency.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

import viser
import websockets.asyncio.server
from viser import _messages

from jrecon.viewer.upload import MAX_BYTES, check_size, safe_name

LOOPBACK = "127.0.0.1"
# What this machine is called from itself.
_OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")
# Uploads of all pages that are under way at once. They come in parts of half a megabyte, in one
# message each; a connection that sends a longer message is closed while it arrives.
_AT_ONCE, _PART_BYTES, _MESSAGE_BYTES = 4, 2**19, 2**21
# Of a transfer; the page chooses it, as a UUID.
_LONGEST_NAME = 64


def start_server(host: str = LOOPBACK, port: int = 8080) -> viser.ViserServer:
    """A page without content, with limits on uploads.

    Args:
      port: the first one that is tried; the next free one is taken.
    """
    with _guarded(allowed_origins(host)):
        server = viser.ViserServer(host=host, port=port, label="jrecon", verbose=False)
    server.gui.configure_theme(control_width="large", show_logo=False, show_share_button=False)
    # Sharing would make the page public through a server elsewhere; without its button any program
    # could still ask for it.
    interface: Any = server.gui._websock_interface
    for kind in (_messages.ShareUrlRequest, _messages.ShareUrlDisconnect):
        interface.unregister_handler(kind)
    server.gui.main_panel.dock_right()
    limit_uploads(server)
    return server


def allowed_origins(host: str) -> list[re.Pattern[str] | None]:
    """Of which sites a page may talk to a server that listens on an address.

    A browser lets any site connect to 127.0.0.1, but says which one it is. None stands for
    programs, which say nothing; any port is allowed, for those who forward theirs. A server on all
    addresses is called by any of them, but not by a name, which may be anybody's.
    """
    names = "|".join(map(re.escape, _OWN_NAMES))
    try:
        anywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        anywhere = False
    if anywhere:
        names += r"|\d+(\.\d+){3}|\[[0-9a-f:.]+\]"
    elif host not in (*_OWN_NAMES, "::1"):
        names += "|" + re.escape(f"[{host}]" if ":" in host else host)
    return [None, re.compile(rf"https?://({names})(:\d+)?", re.IGNORECASE)]


@contextlib.contextmanager
def _guarded(origins: list[re.Pattern[str] | None]) -> Iterator[None]:
    """Servers that are started meanwhile refuse pages of other sites, and long messages.

    The library under viser does this if it is told to, but viser has no setting for it, so what
    starts its server is wrapped while that happens.
    """
    module: Any = websockets.asyncio.server
    serve, told = module.serve, []

    def serve_them(*arguments: Any, **settings: Any) -> Any:
        told.append(True)
        return serve(*arguments, **{**settings, "origins": origins, "max_size": _MESSAGE_BYTES})

    module.serve = serve_them
    try:
        yield
    finally:
        module.serve = serve
    if not told:
        raise RuntimeError(
            "this version of viser starts its server in another way: connections from other sites "
            "would not be refused. Run pip install 'jrecon[view]'."
        )


def limit_uploads(server: viser.ViserServer) -> None:
    """Refuse uploads by the size that they announce, and end those that turn out larger.

    viser itself keeps in memory whatever a page sends, and has no setting for this, so its two
    handlers are put behind checks.
    """
    gui: Any = server.gui
    interface, under_way = gui._websock_interface, gui._current_file_upload_states
    begin, go_on = gui._handle_file_transfer_start, gui._handle_file_transfer_part
    recent: deque[str] = deque(maxlen=2 * _AT_ONCE)

    def forget_answers() -> None:
        """Those to transfers of long ago, which viser keeps for pages that are yet to come."""
        old = lambda one: (
            isinstance(one, _messages.FileTransferPartAck)
            and one.transfer_uuid not in under_way
            and one.transfer_uuid not in recent
        )
        interface.get_message_buffer().remove_from_buffer(old)

    def refuse(client_id: int, message: Any, reason: str) -> None:
        under_way.pop(message.transfer_uuid, None)
        recent.append(message.transfer_uuid)
        client = server.get_clients().get(client_id)
        if client is not None:
            client.add_notification("Not taken", reason, color="red")
        # As if all had arrived, so that the page does not wait for it.
        done = _messages.FileTransferPartAck(
            message.source_component_uuid, message.transfer_uuid, 1, 1
        )
        interface.queue_message(done)

    def guarded_begin(client_id: int, message: _messages.FileTransferStartUpload) -> None:
        if len(message.transfer_uuid) > _LONGEST_NAME:
            return
        forget_answers()
        try:
            check_size(message.filename, message.size_bytes)
        except ValueError as error:
            refuse(client_id, message, str(error))
            return
        if message.part_count > 1 + message.size_bytes // _PART_BYTES:
            refuse(client_id, message, f"{safe_name(message.filename)}: in too many parts.")
            return
        if len(under_way) >= _AT_ONCE:
            refuse(client_id, message, f"{safe_name(message.filename)}: wait for the others.")
            return
        recent.append(message.transfer_uuid)
        begin(client_id, message)

    def guarded_part(client_id: int, message: _messages.FileTransferPart) -> None:
        state = under_way.get(message.transfer_uuid)
        if state is None:
            return
        arrived = state["transferred_bytes"] + len(message.content)
        if arrived > min(state["total_bytes"], MAX_BYTES):
            refuse(client_id, message, f"{safe_name(state['filename'])}: larger than announced.")
            return
        go_on(client_id, message)

    for kind, old, new in (
        (_messages.FileTransferStartUpload, begin, guarded_begin),
        (_messages.FileTransferPart, go_on, guarded_part),
    ):
        interface.unregister_handler(kind, old)
        interface.register_handler(kind, new)
