"""Fixtures of the embedded cloud's tests."""

from cloud_fixtures import cloud, shared_cloud, state

__all__ = ["cloud", "shared_cloud", "state"]
