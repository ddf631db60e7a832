"""A web server of a test's own: it answers what the test says and keeps what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Query = dict[str, str]


@dataclass
class Web:
    """``answer`` is asked with path and query for a status and a body, JSON unless it is text; ``asked`` are the queries."""

    url: str = ""
    answer: Callable[[str, Query], tuple[int, Any]] = lambda path, query: (404, {})
    asked: list[Query] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def says(self, body: Any, status: int = 200) -> None:
        self.answer = lambda path, query: (status, body)


@contextmanager
def web_running() -> Iterator[Web]:
    web = Web()

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            web.asked.append(query)
            web.paths.append(address.path)
            status, body = web.answer(address.path, query)
            sent = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", body)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Whoever asked did not wait for the answer: that is what a test of it looks at."""

    server = Quiet(("127.0.0.1", 0), Answering)
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
