"""The loop of a measuring process: reads a request, has the session answer it, writes the answer.

It answers requests over the wire that `core/process.py` makes of its standard streams. `runner/`
is the other side. The process ends when its input does, and with its driver.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os

import torch

from gradbench import state
from gradbench.core.places import of_error
from gradbench.core.process import STATE_LOST, Wire
from gradbench.problems import registry
from gradbench.worker.failures import line_of, where
from gradbench.worker.session import Refused, Session


def serve(wire: Wire, session: Session) -> None:
    """Answers requests until the input ends."""
    for request in wire.requests():
        try:
            answer = {"ok": True, **session.answer(request)}
        except Refused as error:
            answer = {"ok": False, "reason": str(error)}
        except state.StateLost as error:
            os.write(2, f"{error}\n".encode())
            os._exit(STATE_LOST)
        except Exception as error:
            answer = {"ok": False, **session.failure(error)}
        wire.answer(answer)


def rehearse() -> None:
    """Has torch load what it loads at the first calls of its function transforms (torch._dynamo
    above all): they then take milliseconds instead of seconds."""
    x = torch.ones(2)
    with contextlib.suppress(Exception):
        torch.func.jacrev(torch.sin)(x)
        torch.func.jacfwd(torch.sin)(x)


def main(wire: Wire) -> None:
    parser = argparse.ArgumentParser(prog="python -m gradbench.worker")
    parser.add_argument("--memory-limit", type=int, default=4 << 30)
    parser.add_argument("--from", dest="files", action="append", default=[])
    parser.add_argument("--lenient", action="store_true")
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    wire.require_driver()
    torch.set_num_interop_threads(1)
    torch.set_num_threads(1)
    broken = registry.load()
    session = Session(options.memory_limit, broken=broken, wire=wire, enforced=True)
    for path in options.files:
        wire.require_driver()
        try:
            session.load([path])
        except BaseException as error:
            place = of_error(error)
            said = f"{path}: {line_of(error)}" + (f" (at {place})" if place else "")
            if options.lenient and isinstance(error, (Exception, SystemExit)):
                session.failed.append(said)
                continue
            for _ in wire.requests():
                wire.answer({"ok": False, "reason": said, "where": where(error)})
            return
    wire.require_driver()
    if options.rehearse and not wire.waiting:
        rehearse()
    session.close()
    gc.disable()
    serve(wire, session)
