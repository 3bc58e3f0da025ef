"""Which of torch's errors say that something is not supported, rather than that it failed."""

from __future__ import annotations

import dis
import itertools
import os
import re
import traceback
from types import CodeType

import torch

# What torch's message contains, and the reason as a user reads it; {0} is what the group matched.
REASONS = tuple(
    (re.compile(pattern, re.DOTALL), reason)
    for pattern, reason in (
        (
            r"vmap.*(?:data-dependent control flow|calling \.item\(\) on a Tensor)",
            "the function uses a tensor's value in Python (a branch, .item()): vmap cannot",
        ),
        (
            r"trying to get value out of a tracing tensor",
            "the function uses a tensor's value in Python (a branch, .item()): tracing cannot",
        ),
        (
            r"aten::alias\(\) Expected a value of type 'Tensor'",
            "torch.func.linearize of this release cannot trace the function's plain numbers",
        ),
        (
            r"vmap: .{0,80}\(self, \*extra_args\) is not possible",
            "the function writes in place into a tensor that vmap does not map over",
        ),
        (
            r"in-place operation \((\S+)\) that would mutate a captured Tensor",
            "the function writes in place ({0}) into a tensor from outside: torch.func cannot",
        ),
        (
            r"attempting to call Tensor\.requires_grad_\(\)",
            "the function differentiates inside by torch.autograd: torch.func cannot",
        ),
        (
            r"don't yet support saved tensor hooks",
            "the function saves tensors by hooks (checkpointing does): torch.func cannot",
        ),
        (
            r"dot\(self, other\): Shape mismatch",
            "torch's vmap cannot batch this scalar product in forward mode",
        ),
        (
            r"Mismatch in shape: grad_output\[\d+\] has a shape of torch\.Size\(\[\]\)",
            "the function takes its input whole, not number by number",
        ),
        (
            r"Batch norm got a batched tensor as input while the running_mean",
            "batch normalization updates its statistics: vmap cannot",
        ),
        (
            r"called random operation while|calling random operations inside of vmap",
            "the function draws random numbers: vmap does not",
        ),
        (
            r"vmap: .*(?:support dynamic shape|differently shaped Tensor)",
            "the shape of a tensor depends on values: vmap cannot",
        ),
        (r"[Bb]atching rule not implemented for (\S+?)[;,.]?(?:\s|$)", "vmap has no rule for {0}"),
        (
            r"(\S{1,100}) hit the vmap fallback which is currently disabled",
            "vmap has no rule for {0}",
        ),
        (
            r"tried to vmap over (\w+), but it does not have vmap support",
            "vmap has no rule for {0}",
        ),
        (
            r"Trying to use forward AD with (\S+) that does not support it",
            "forward mode is not implemented for {0}",
        ),
        (
            # Without the boundary, a long word is searched from each of its letters.
            r"\b(\w+) is unsupported for Sparse tensors",
            "the function multiplies by a sparse tensor, and there is no {0} of those: vmap cannot",
        ),
        (
            r"Nested forward mode AD is not supported",
            "the function differentiates inside in forward mode: forward mode in that is not "
            "implemented",
        ),
        (
            r"NestedTensorImpl doesn't support (\w+)",
            "the function makes nested tensors, which have no {0}: this mode needs them",
        ),
        (
            r"Expected f\(\*args\) to return a scalar [Tt]ensor, got tensor with \d+ dims",
            "the function takes its input whole, not number by number",
        ),
        (
            r"must implement the jvp function for custom autograd\.Function",
            "forward mode is not implemented for the function's autograd.Function",
        ),
        (
            r"must implement either the backward or vjp method for your custom autograd\.Function",
            "reverse mode is not implemented for the function's autograd.Function",
        ),
        (r"ZeroTensors are immutable", "forward mode cannot write into its zero tangents"),
        (
            r"derivative for '?([\w:.]+?)'? is not implemented",
            "the derivative of {0} is not implemented",
        ),
        (
            r"marked with @once_differentiable",
            "the function's autograd.Function can be differentiated once only",
        ),
        (r"[Dd]ouble backwards? is not (?:supported|implemented)", "no second derivative here"),
        (
            r"must override the setup_context staticmethod",
            "torch.func needs a setup_context in the function's autograd.Function",
        ),
        (
            r"Cannot access data pointer of Tensor that doesn't have storage",
            "the function takes the data out of a tensor (.numpy(), .tolist()): torch.func cannot",
        ),
        (
            r"Can't call numpy\(\) on Tensor that requires grad",
            "the function takes the data out of a tensor (.numpy()): autograd cannot",
        ),
        (
            r"backward\(\) called inside (?:a functorch transform|torch\.vmap)",
            "the function calls .backward() itself: torch.func cannot",
        ),
        (r"\"(\w+)\" not implemented for '(Half|BFloat16|Float8\w*)'", "torch has no {0} for {1}"),
        (
            r"value cannot be converted to type (?:\S+::)?(\w+) without overflow",
            "{0} cannot hold one of the function's numbers",
        ),
        (r"Could not run '(\S+)' with arguments from the '(\w+)' backend", "no {0} on {1}"),
        (r"operator '(\S+)' is not currently implemented for the (\w+) device", "no {0} on {1}"),
        (
            r"not (?:yet )?supported (?:for torch\.compile|on Python)",
            "torch.compile does not support this Python or system",
        ),
        (
            r"No working C\+\+ compiler|InvalidCxxCompiler",
            "torch.compile finds no working C++ compiler",
        ),
        (
            r"TritonMissing|[Cc]annot find a working triton|GPUTooOldForTriton",
            "torch.compile finds no working Triton for this GPU",
        ),
    )
)


LONGEST_MESSAGE = 100_000
"""Characters of an error's message that are looked at."""


def message_of(error: BaseException) -> str:
    """What an error says; code that is measured may raise one that says endlessly much, or that
    raises another where it is to be shown."""
    try:
        return str(error)[:LONGEST_MESSAGE]
    except Exception:
        return "its message cannot be shown"


def unsupported_reason(error: BaseException) -> str | None:
    """One line that says what is not supported, or None where the error says no such thing.

    An error that is not recognised here counts as a failure, so a bug is never hidden: what
    torch raises for wrong shapes or dtypes is not among these.
    """
    if not isinstance(error, RuntimeError):
        return None
    message = message_of(error)
    if type(error).__module__ == "torch._dynamo.exc":
        reason = _graph_break(type(error).__name__, message)
        if reason:
            return "torch.compile: " + reason
    for pattern, reason in REASONS:
        match = pattern.search(message)
        if match:
            return reason.format(*match.groups())
    return _left_out(error)


METHODS = re.compile(r"backward|vjp|jvp|vmap")
"""What the methods of an `autograd.Function` that differentiate are called."""


def _left_out(error: BaseException) -> str | None:
    """Which of the function's own rules says by NotImplementedError that it is none, or None.

    The rule has to raise it itself: whatever else goes wrong in it is a failure of the function.
    """
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not isinstance(error, NotImplementedError):
        return None
    code = last.tb_frame.f_code
    name = own_rule(error)
    if dis.opname[code.co_code[last.tb_lasti]] != "RAISE_VARARGS" or _by_torch(code) or not name:
        return None
    said = " ".join(message_of(error).split())[:200]
    return f"the function's own {name} raises NotImplementedError" + (f": {said}" if said else "")


def _by_torch(code: CodeType) -> bool:
    return code.co_filename.startswith(os.path.dirname(os.path.abspath(torch.__file__)))


def own_rule(error: BaseException) -> str:
    """The method of an `autograd.Function` outside torch that an error comes from, such as
    ``Scale.backward``; empty for an error from elsewhere."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    rules = [
        code
        for before, code in itertools.pairwise(codes)
        if METHODS.search(code.co_name) and _by_torch(before) and not _by_torch(code)
    ]
    # Names are qualified from Python 3.11 on.
    return str(getattr(rules[-1], "co_qualname", rules[-1].co_name)) if rules else ""


_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+ [KMGT]i?B|\d+ bytes)")
_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory", re.I)
_RECORDING = re.compile(r"captur", re.I)
_LOST = re.compile(r"^(?:CUDA|HIP) error:|^CUDA driver error")


def out_of_memory(error: BaseException) -> str | None:
    """How much was asked for in vain, in one line; None for any other error.

    Torch has a class of its own for the device, and tells that of the processor in words.
    """
    if not isinstance(error, (RuntimeError, MemoryError)):
        return None
    message = message_of(error)
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    if not (named or _MEMORY.search(message)):
        return None
    asked = _ASKED.search(message)
    size = asked[1] if asked else ""
    if size.endswith(" bytes"):
        size = f"{int(size.split()[0]) / 2**30:.3g} GiB"
    where = "the device" if "CUDA" in message or "GPU" in message else "the processor"
    return f"asked for {size} on {where}" if size else f"on {where}, and it does not say how much"


def not_recordable(error: BaseException) -> str | None:
    """Why a CUDA graph cannot hold what was recorded, in one line; None for any other error.

    What broke the recording is raised first, and ending a broken one raises again.
    """
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__context__
    for one in reversed(chain):
        if isinstance(one, RuntimeError) and _RECORDING.search(message_of(one)):
            line = message_of(one).partition("\n")[0].removeprefix("CUDA error: ")
            return f"a CUDA graph cannot hold it, as when it waits for the device: {line}"
    return None


def device_lost(error: BaseException) -> bool:
    """Whether every later call on the device would fail in this process too."""
    if type(error).__name__ == "AcceleratorError":
        return True
    return isinstance(error, RuntimeError) and bool(_LOST.search(message_of(error)))


def _graph_break(kind: str, message: str) -> str | None:
    """What the compiler met that it cannot have in its graph, or None."""
    if kind == "UserError" and re.search("data-dependent|dynamic control flow", message, re.I):
        return "the function branches on a tensor's value"
    # An exception of the function's own, met while tracing, comes as Unsupported too.
    if kind == "Unsupported" and not message.startswith("Observed exception"):
        return message.partition("\n")[0].strip()
    return None
