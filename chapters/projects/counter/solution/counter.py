"""A page with a counter. The number is Redis's: this program may be thrown away at any time."""

import http.server
import socket


def visit():
    """One more; by name, for an address is another one tomorrow."""
    with socket.create_connection(("redis", 6379), timeout=5) as redis:
        redis.sendall(b"INCR visits\r\n")
        return redis.makefile("rb").readline().strip().lstrip(b":")


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/":
            return self.send_error(404)
        try:
            number = visit()
        except OSError as error:
            return self.send_error(503, explain=str(error))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"You are visitor " + number + b".\n")


http.server.ThreadingHTTPServer(("", 80), Page).serve_forever()
