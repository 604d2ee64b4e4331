"""What gpuctl decides, as values: no clock, no network, no AWS, no terminal."""
