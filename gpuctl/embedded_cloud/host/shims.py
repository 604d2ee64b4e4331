"""What a host's PATH begins with: programs that would touch the whole machine, and what stands in for them here.

A power-off tells the host's first process, by a line in a named pipe; `sudo CMD` runs CMD; a package is never
installed. The pipe's path is written into the programs, so that an emptied environment changes nothing.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

POWER_COMMANDS = ("shutdown", "poweroff", "reboot", "halt", "init", "telinit")
PRIVILEGED_COMMANDS = ("sudo", "systemctl", "apt-get", "apt")
POWEROFF = "poweroff"
REBOOT = "reboot"

_POWER = """#!/bin/sh
# Stands in for the machine's own: it ends or restarts this host, and nothing else.
ask() { echo "$1" > PIPE; exit 0; }
me=${0##*/}
word=poweroff when=
for argument in "$@"; do
  case $argument in
    -r | --reboot | 6) word=reboot ;;
    -c | --help | -w | --wtmp-only | q | Q) exit 0 ;;
    now | +0) when=now ;;
    -*) ;;
    *) when=$argument ;;
  esac
done
case $me in
  reboot) ask reboot ;;
  poweroff | halt) ask poweroff ;;
  init | telinit) case $when in 0 | '') ask "$word" ;; *) exit 1 ;; esac ;;
esac
[ "$when" = now ] && ask "$word"
echo "$me: this host powers off 'now' or not at all: no '${when:-+1}'" >&2
exit 1
"""

_SYSTEMCTL = """#!/bin/sh
# Stands in for the machine's own: this host has no units, only power.
verb=
for argument in "$@"; do
  case $argument in -*) ;; *) verb=$argument; break ;; esac
done
case $verb in
  poweroff | halt) echo poweroff > PIPE ;;
  reboot | kexec | soft-reboot) echo reboot > PIPE ;;
  mask | unmask | enable | disable | start | stop | restart | reload | daemon-reload | reset-failed) exit 0 ;;
  is-system-running) echo running ;;
  is-active | is-enabled | is-failed | status) echo inactive; exit 3 ;;
  *) echo "systemctl: this host has no '$verb'" >&2; exit 1 ;;
esac
"""

_SUDO = """#!/bin/sh
# Stands in for the machine's own: nothing on this host needs more rights than it has.
while [ $# -gt 0 ]; do
  case $1 in
    -u | -g | -h | -p | -C | -r | -t | -T | -U | -D | -R) shift; [ $# -gt 0 ] && shift ;;
    --) shift; break ;;
    -i | -s | --login | --shell) [ $# -eq 1 ] && exec "${SHELL:-/bin/sh}"; shift ;;
    -*) shift ;;
    *) break ;;
  esac
done
[ $# -eq 0 ] && exit 0
case $1 in
  /bin/* | /sbin/* | /usr/bin/* | /usr/sbin/*)
    name=${1##*/}
    [ -x "${0%/*}/$name" ] && { shift; exec "${0%/*}/$name" "$@"; } ;;
esac
exec env "$@"
"""

_APT = """#!/bin/sh
# Stands in for the machine's own: what is here is here, and nothing is installed.
verb=
for argument in "$@"; do
  case $argument in
    -* | *::*) ;;
    *)
      if [ -z "$verb" ]; then verb=$argument; continue; fi
      [ "$verb" = install ] || continue
      command -v "$argument" >/dev/null 2>&1 && continue
      dpkg-query -W -f '${Status}' "$argument" 2>/dev/null | grep -q ' installed$' && continue
      echo "E: Unable to install $argument: a host of the embedded cloud has what this machine has" >&2
      exit 100 ;;
  esac
done
case $verb in
  install | update | clean | autoclean | autoremove | '') exit 0 ;;
  *) echo "E: $verb: a host of the embedded cloud changes no packages of this machine" >&2; exit 100 ;;
esac
"""

# `setsid` is a Linux program; macOS has the call alone.
_SETSID = """#!/bin/sh
while :; do case $1 in -*) shift ;; *) break ;; esac; done
exec PYTHON -c 'import os, sys
if os.getpgrp() == os.getpid() and os.fork():
    os._exit(0)
os.setsid()
os.execvp(sys.argv[1], sys.argv[1:])' "$@"
"""


def write(folder: Path, *, pipe: Path, path: str) -> None:
    """Makes `folder` with the stand-ins in it, which write to `pipe`. `path` is the PATH that comes after it."""
    folder.mkdir(mode=0o700)
    texts = dict.fromkeys(POWER_COMMANDS, _POWER)
    texts |= {"systemctl": _SYSTEMCTL, "sudo": _SUDO, "apt-get": _APT, "apt": _APT}
    if shutil.which("setsid", path=path) is None:
        texts["setsid"] = _SETSID
    for name, text in texts.items():
        program = folder / name
        program.write_text(text.replace("PIPE", shlex.quote(str(pipe))).replace("PYTHON", shlex.quote(sys.executable)))
        program.chmod(0o700)
