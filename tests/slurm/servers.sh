# Shared by slurm-up, slurm-down, slurm-node, sshd-up, sshd-down. Sourced, never run.
# bash only; no tool beyond coreutils, util-linux (setsid, unshare, nsenter, flock) and what the caller installs.

say()  { printf '%s: %s\n' "$PROG" "$*" >&2; }
die()  { say "error: $*"; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || die "must run as root (uid $(id -u))"; }

# --- processes: a pid file holds "PID STARTTIME", so a reused pid is never signalled -------------------------
proc_start() { # PID -> start time in clock ticks, empty if gone or zombie
  local s; s=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  s=${s##*) }; set -- $s
  [ "$1" = Z ] && return 0
  echo "${20}"
}
pid_save() { printf '%s %s\n' "$2" "$(proc_start "$2")" > "$1"; }           # FILE PID
pid_live() { # FILE -> prints the pid and returns 0 when that very process is alive
  local pid st; [ -s "$1" ] || return 1
  read -r pid st < "$1" || return 1
  [ -n "$st" ] && [ "$(proc_start "$pid")" = "$st" ] || return 1
  echo "$pid"
}
spawn() { # PIDFILE LOGFILE CMD...: starts CMD in its own session, detached from this shell and its lock
  local pf=$1 log=$2; shift 2
  setsid "$@" </dev/null >>"$log" 2>&1 8>&- 9>&- &
  pid_save "$pf" $!
  disown $! 2>/dev/null || true
}
stop_pid() { # FILE [SECONDS before SIGKILL, 0 = SIGKILL at once]: stops one process, waits until it is gone
  local f=$1 grace=${2:-5} pid i
  if pid=$(pid_live "$f"); then
    if [ "$grace" -gt 0 ]; then
      kill -TERM "$pid" 2>/dev/null; kill -CONT "$pid" 2>/dev/null
      for ((i = 0; i < grace * 20; i++)); do pid_live "$f" >/dev/null || break; sleep 0.05; done
    fi
    pid_live "$f" >/dev/null && kill -KILL "$pid" 2>/dev/null
    for ((i = 0; i < 100; i++)); do pid_live "$f" >/dev/null || break; sleep 0.05; done
    pid_live "$f" >/dev/null && { say "pid $pid ($f) did not die"; return 1; }
  fi
  rm -f "$f"
}
kids() { cat "/proc/$1/task/"*/children 2>/dev/null; }                       # PID -> its children
tree() { local k; for k in $(kids "$1"); do echo "$k"; tree "$k"; done; }    # PID -> all descendants
env_pids() { # REGEX -> the processes whose environment has a line that matches (one grep: /proc is slow to walk)
  local f; for f in $(grep -lzE -- "$1" /proc/[0-9]*/environ 2>/dev/null); do f=${f#/proc/}; echo "${f%/environ}"; done
}

# --- ports ------------------------------------------------------------------------------------------------
port_free() { ! (exec 7<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_port() { # prints a loopback port below the ephemeral range that nobody listens on and not in $TAKEN
  local p i
  for ((i = 0; i < 200; i++)); do
    p=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    case " ${TAKEN:-} " in *" $p "*) continue;; esac
    port_free "$p" && { echo "$p"; return; }
  done
  die "no free port between 20000 and 32000"
}

# --- packages ---------------------------------------------------------------------------------------------
# install PROGRAM=PACKAGE...: installs the packages whose program is missing; no service is started by it.
install_missing() {
  local pair want=() made='' rc log
  for pair in "$@"; do command -v "${pair%%=*}" >/dev/null 2>&1 || want+=("${pair#*=}"); done
  [ ${#want[@]} = 0 ] && return 0
  [ -n "${NO_INSTALL:-}" ] && die "missing packages: ${want[*]} (and --no-install was given)"
  command -v apt-get >/dev/null || die "missing packages: ${want[*]}, and there is no apt-get"
  say "installing ${want[*]}"
  log=$(mktemp)
  exec 8>/run/neva-test-apt.lock; flock 8
  if [ ! -e /usr/sbin/policy-rc.d ]; then   # else the packages would start munged, sshd, ... by themselves
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; made=1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${want[@]}" >"$log" 2>&1 8>&- 9>&- ||
    { apt-get -o DPkg::Lock::Timeout=300 update >"$log" 2>&1 8>&- 9>&- &&
      apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${want[@]}" >>"$log" 2>&1 8>&- 9>&-; }
  rc=$?
  [ -n "$made" ] && rm -f /usr/sbin/policy-rc.d
  flock -u 8; exec 8>&-
  [ $rc = 0 ] || { tail -n 20 "$log" >&2; rm -f "$log"; die "apt-get could not install ${want[*]}"; }
  rm -f "$log"; hash -r
  for pair in "$@"; do command -v "${pair%%=*}" >/dev/null 2>&1 || die "${pair#*=} is installed but ${pair%%=*} is not in PATH"; done
}

# --- state directory --------------------------------------------------------------------------------------
lock_state() { # DIR: one up/down at a time for it
  exec 9>"$1/.lock"; flock -w 120 9 || die "another $PROG holds $1/.lock"
}
abspath() { case $1 in /*) printf '%s\n' "$1";; *) printf '%s/%s\n' "$PWD" "$1";; esac; }
