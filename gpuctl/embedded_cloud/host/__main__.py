"""`python -m gpuctl.embedded_cloud.host`: the host's first process."""

from gpuctl.embedded_cloud.host.reaper import main

if __name__ == "__main__":
    raise SystemExit(main())
