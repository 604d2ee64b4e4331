"""gpuctl: take a training job from a laptop to a spot GPU, and bring the model home."""

__version__ = "0.1.0"
