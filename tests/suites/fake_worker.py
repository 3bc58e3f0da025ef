"""A worker without torch, for tests of the driver: it speaks the protocol and fails as planned.

The plan is JSON in the environment variable FAKE. It maps a request, or a request and a mode
(`"prepare:grad": ["kill"]`), to a list of actions, one per request of that kind in any process;
"go on" answers normally. Files in the folder FAKE_STATE count the requests.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from gradbench.core.process import Wire

VISIT = {"number": 10, "blocks": 2, "untimed": 1, "call": 1000}
OFFER = {
    **{"operator": "vjp", "function": "f", "document": "X", "formula": "f", "derivative": "f'"},
    **{"dtype": "float32", "example_size": "n=3", "sizes": [], "large_sizes": []},
    **{"modes": ["forward", "backward", "grad"], "opt_in": [], "size_names": ["n"], "cuda": []},
    "first": "backward",
}
HELLO = {
    "protocol": 2,
    "environment": {
        **{"gradbench": "0.1.0", "torch": "2.0.0", "python": "3.11.0", "devices": ["cpu"]},
        **{"pid": os.getpid(), "numpy": "2.0.0", "cpu_capability": "AVX2", "torch_git": "1"},
    },
}


class Fake:
    def __init__(self, wire):
        self.wire = wire
        self.planned = json.loads(os.environ.get("FAKE", "{}"))
        self.modes = {}

    def action(self, name):
        """The planned action for this request, by default "go on"."""
        actions = self.planned.get(name)
        if actions is None:
            return "go on"
        counter = Path(os.environ["FAKE_STATE"]) / name.replace(":", "_")
        with counter.open("a") as file:
            file.write("x")
        times = counter.stat().st_size
        return actions[times - 1] if times <= len(actions) else "go on"

    def answer(self, request):
        op = request.pop("op")
        mode = request.get("mode") or self.modes.get(request.get("handle"), "")
        names = [op, f"{op}:{mode}"]
        names += [f"{op}:{self.modes[handle]}" for handle in set(request.get("handles", []))]
        for name in names:
            action = self.action(name)
            if action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif action == "hang":
                time.sleep(1000)
            elif action == "exit":
                print("last words \x1b[31m", file=sys.stderr)
                sys.stderr.flush()
                os._exit(3)
            elif action == "twice":
                self.wire.answer({"ok": True, **getattr(self, op)(**request)})
            elif action != "go on":
                return json.loads(action)
        return {"ok": True, **getattr(self, op)(**request)}

    def hello(self):
        return HELLO

    def ping(self):
        return {}

    def discover(self):
        return {"offers": [OFFER], "modes": [], "unavailable": {}, "broken": []}

    def open(self, comparison, salt, fresh):
        return {"outputs": 1, "coordinates": 3, "result_bytes": 12, "argument_bytes": 12}

    def prepare(self, mode, handle, warm, fresh, patience=0, limit=0.0):
        self.modes[handle] = mode
        return {"status": "ok", "error": 0.1, "ulps": 1.0, **({"visit": VISIT} if warm else {})}

    def estimate(self, handles, rounds):
        return {"calls": [VISIT["call"]] * len(handles)}

    def plan(self, handles, call):
        return {"visit": VISIT}

    def visit(self, handles):
        return {"blocks": [[10_000, 10_100 + handle] for handle in handles], "spent": 10**9}

    def check(self, handle, fresh):
        return {"status": "ok"}

    def trust(self, mode, handle, call, rehearse):
        self.modes[handle] = mode
        return {}

    def read(self, handle, instruments):
        return {"values": {name: [7.0] for name in instruments}, "reasons": {}}

    def limits(self, device, threads, dtypes):
        return {"bandwidth": 1e9, "rates": dict.fromkeys(dtypes, 1e9), "cache": 1 << 20}

    def close(self):
        return {}


def main():
    wire = Wire()
    fake = Fake(wire)
    if fake.action("start") == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    for request in wire.requests():
        wire.answer(fake.answer(request))


if __name__ == "__main__":
    main()
