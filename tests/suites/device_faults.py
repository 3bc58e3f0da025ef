"""Modes that ask a CUDA device for too much, or break it: what a run has to survive.

Loaded by `gradbench --from` where there is a device.
"""

import torch

from gradbench.problems import registry


@registry.mode("vjp")
def asks_the_device_for_much(problem):
    """64 TiB, which no device has"""

    def call(inputs, v):
        return torch.empty(1 << 44, device=problem.device)[:1]

    return call


@registry.mode("vjp")
def breaks_the_device(problem):
    """an index beyond the end, which the device finds out when nobody can catch it"""

    def call(inputs, v):
        beyond = torch.tensor([1 << 20], device=problem.device)
        found = inputs[0].detach()[beyond]
        torch.cuda.synchronize()
        return found

    return call
