"""`python -m gpuctl.localcloud.host`: the host's first process."""

from gpuctl.localcloud.host.reaper import main

if __name__ == "__main__":
    raise SystemExit(main())
