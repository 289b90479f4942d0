"""A server that speaks as OpenAI's does, on this machine, and says what it is told to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Stub:
    """Replies of a server: a function of a prompt gives its words, a status and a body, or seconds to say nothing.

    Attributes:
        address: Where it listens.
        asked: What it was sent: the headers and the JSON.
    """

    def __init__(self, reply: Callable[[str], str | tuple[int, str] | float]) -> None:
        self.reply = reply
        self.asked: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.address = ""


def completion(words: str | None) -> str:
    """A chat completion, as JSON."""
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": words}}]})


@contextmanager
def served(reply: Callable[[str], str | tuple[int, str] | float]) -> Iterator[Stub]:
    """A server for as long as the block lasts."""
    stub = Stub(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stub.asked.append((dict(self.headers), {"path": self.path, **content}))
            reply = stub.reply(content["messages"][0]["content"])
            if isinstance(reply, float):
                time.sleep(reply)
                return
            status, body = (200, completion(reply)) if isinstance(reply, str) else reply
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", body)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.address = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
