"""A stand-in for the server of Weights & Biases, for its real client: GraphQL and file streams on the loopback.

It hands settings out to agents, one after the other, and keeps what runs send: configuration, history and exit code.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY = {"id": "RW50aXR5", "name": "house"}
PROJECT = {"id": "UHJvamVjdA==", "name": "patchwork", "entity": ENTITY}


class Server(ThreadingHTTPServer):
    """The server: what it was sent is kept by the ids of runs.

    Args:
        settings: for the runs of a sweep.
    """

    daemon_threads = True

    def __init__(self, settings: list[dict[str, Any]] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.settings = list(settings or [])
        self.sweep: str | None = None  # its file, as it came
        self.agents = 0
        self.began: dict[str, str] = {}  # runs of the sweep: by which agent
        self.configs: dict[str, dict[str, Any]] = {}
        self.names: dict[str, str] = {}
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.exits: dict[str, int] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client's process needs to find it."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "k" * 40, "WANDB_ENTITY": "house", "WANDB_MODE": "online"}

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Answer an operation of GraphQL."""
        with self.lock:
            self.asked.append(operation)
            if operation == "UpsertSweep":
                self.sweep = given["config"]
                return {
                    "upsertSweep": {"sweep": {"name": "sweep1", "project": PROJECT}, "configValidationWarnings": []}
                }
            if operation == "SweepWithRuns":
                runs: dict[str, Any] = {"runs": {"edges": []}, "createdAt": "2026-01-01T00:00:00Z", "bestLoss": None}
                sweep = {"id": "U3dlZXA=", "name": "sweep1", "state": "RUNNING", "config": self.sweep, **runs}
                return {"project": {**PROJECT, "sweep": sweep}}
            if operation == "CreateAgent":
                self.agents += 1
                return {"createAgent": {"agent": {"id": f"agent{self.agents}"}}}
            if operation == "Heartbeat":
                return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(self.commands(given))}}
            if operation == "UpsertBucket":
                return {"upsertBucket": {"bucket": self.run(given), "inserted": True}}
            if operation in ("RunResumeStatus", "RunStatus"):
                return {"model": {**PROJECT, "bucket": self.kept(given["name"])}}
            if operation == "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in given["files"]]
                return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
            if operation == "Viewer":
                viewer = {"id": "VXNlcg==", "entity": "house", "username": "tester", "flags": "{}"}
                return {"viewer": {**viewer, "teams": {"edges": [{"node": ENTITY}]}}}
            return {}

    def commands(self, given: dict[str, Any]) -> list[dict[str, Any]]:
        """Say what an agent is to do next, if it has nothing to do."""
        if json.loads(given["runState"]):
            return []
        if not self.settings:
            return [{"type": "exit"}]
        run, setting = f"run{len(self.began)}", self.settings.pop(0)
        self.began[run] = given["id"]
        arguments = {name: {"value": value} for name, value in setting.items()}
        program = yaml.safe_load(self.sweep or "")["program"]
        return [{"type": "run", "run_id": run, "args": arguments, "program": program}]

    def run(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["name"]
        if given.get("config"):
            nodes = json.loads(given["config"]).items()
            self.configs[name] = {key: node["value"] for key, node in nodes if "value" in node}
        self.names[name] = given.get("displayName") or self.names.get(name, name)
        return {
            "id": f"bucket-{name}",
            "name": name,
            "displayName": self.names[name],
            "description": "",
            "config": given.get("config") or "{}",
            "sweepName": "sweep1" if name in self.began else None,
            "project": PROJECT,
            "historyLineCount": len(self.history.get(name, [])),
        }

    def kept(self, name: str) -> dict[str, Any] | None:
        """Return what is known of a run that may be resumed."""
        if name not in self.history:
            return None
        lines = self.history[name]
        return {
            "id": f"bucket-{name}",
            "name": name,
            "summaryMetrics": "{}",
            "displayName": self.names[name],
            "logLineCount": 0,
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(line) for line in lines[-1:]]),
            "eventsTail": "[]",
            "config": json.dumps({key: {"value": value} for key, value in self.configs[name].items()}),
            "tags": [],
            "wandbConfig": '{"t": {}}',
        }

    def stream(self, run: str, content: dict[str, Any]) -> None:
        """Take in a piece of a run's files."""
        with self.lock:
            piece = content.get("files", {}).get("wandb-history.jsonl", {})
            self.history.setdefault(run, []).extend(json.loads(line) for line in piece.get("content", []))
            if content.get("complete"):
                self.exits[run] = content["exitcode"]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.say({})

    def do_PUT(self) -> None:
        self.body()
        self.say({})

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/graphql":
            content = json.loads(body)
            found = re.search(r"(?:query|mutation)\s+(\w+)", content["query"])
            self.say({"data": self.server.answer(found[1] if found else "", content.get("variables") or {})})
            return
        if match := re.search(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self.server.stream(match[1], json.loads(body))
        self.say({"exitcode": None, "limits": {}})

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def say(self, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Say nothing of requests."""


@contextmanager
def serving(settings: list[dict[str, Any]] | None = None) -> Iterator[Server]:
    """Serve while the context lasts."""
    with Server(settings) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
