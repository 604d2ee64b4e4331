"""What gpuctl and its jobs cost, measured beside something: `python -m benchmarks`, `make bench`."""
