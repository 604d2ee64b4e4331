"""The payload: what gpuctl runs on a host. Standard library of Python 3.9 alone; docs/payload.md has its protocol."""
