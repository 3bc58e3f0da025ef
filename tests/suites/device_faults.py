"""Modes that exhaust a CUDA device's memory or break its context; runs must survive them.

Loaded by `gradbench --from` if there is a device.
"""

import torch

from gradbench.problems import registry


@registry.mode("vjp")
def asks_the_device_for_much(problem):
    """allocates 64 TiB, which no device has"""

    def call(inputs, v):
        return torch.empty(1 << 44, device=problem.device)[:1]

    return call


@registry.mode("vjp")
def breaks_the_device(problem):
    """indexes beyond the end, which the device detects asynchronously"""

    def call(inputs, v):
        beyond = torch.tensor([1 << 20], device=problem.device)
        found = inputs[0].detach()[beyond]
        torch.cuda.synchronize()
        return found

    return call
