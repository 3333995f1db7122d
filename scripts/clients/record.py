"""Stands between a client and a server, and writes down what the client sends.

    python record.py PORT http://127.0.0.1:8080 OUT.jsonl

Each line is a request as it came, with the status and the kind of its answer: method, path, headers, body. Texts of answers are
not kept. `fixtures.py` makes the files of fixtures/clients/ from it.
"""

import http.client
import http.server
import json
import sys
import threading
import urllib.parse

port, server, out = int(sys.argv[1]), urllib.parse.urlparse(sys.argv[2]), sys.argv[3]
lock = threading.Lock()


class Recorder(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hop = ("host", "connection", "content-length", "accept-encoding")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in hop}
        there = http.client.HTTPConnection(server.hostname, server.port)
        there.request(self.command, self.path, body or None, headers)
        response = there.getresponse()
        line = {"method": self.command, "path": self.path, "headers": headers, "status": response.status}
        line["kind"] = response.headers.get_content_type()
        if body:
            line["body"] = json.loads(body)
        with lock, open(out, "a") as file:
            file.write(json.dumps(line) + "\n")
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        # A client that has gone takes its request along.
        try:
            while piece := response.read1(65536):
                self.wfile.write(piece)
                self.wfile.flush()
        except OSError:
            pass
        there.close()

    do_GET = do_POST = answer

    def log_message(self, *words):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", port), Recorder).serve_forever()
