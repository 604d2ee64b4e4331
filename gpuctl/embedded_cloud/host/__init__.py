"""One host of the embedded cloud: a process tree on loopback that boots, serves SSH and ends whole.

`python -m gpuctl.embedded_cloud.host` reads one line of JSON (`config.HostConfig`) on standard input, which stays open
as the host's lifeline, and prints JSON lines of what becomes of it:

    {"event": "booted"}                            once at every boot: SSH answers
    {"event": "boot-warning", "message": "..."}    a part of the user-data that is passed over
    {"event": "boot-error", "message": "..."}      the disk cannot be made, or the SSH server will not run
    {"event": "rebooting"}                         the host asked to be started again
    {"event": "ended", "reason": "..."}            the last: `poweroff`, `reboot` (it rebooted without end), `lifeline`
                                                   or `boot-error`; nothing of the host is left but its disk

Two processes make a host. The first (`reaper`) holds the lifeline and outlives all others; the second (`machine`)
boots and is the SSH server. Both adopt orphans where the system lets them, and either ends everything when the other
is gone for good, so that no kill of one process leaves another behind.
"""
