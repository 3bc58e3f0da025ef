"""Many machines: runs measured by the nodes of a Dask cluster, which places and retries their jobs.

A node is a Dask worker that can import torch. It measures as one machine does, through the same
workers and checks, and sends home lines of the log.
"""
