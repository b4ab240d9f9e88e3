#!/usr/bin/env bash
# A real Slurm on this machine alone, from Debian's packages, for tests and experiments. It needs no systemd.
#   scripts/one_node_slurm.sh start   installs what is missing, writes a configuration, starts the daemons
#   scripts/one_node_slurm.sh stop    cancels all jobs, ends the daemons that it started, removes what it wrote
# Both may be repeated. A Slurm that is not ours is left alone. Tested on Debian 12 (Slurm 22.05), as root.
set -euo pipefail
state=/var/lib/one_node_slurm # daemons' state, logs and process ids
conf=/etc/slurm/slurm.conf
mark="# written by one_node_slurm.sh"

fail() {
  echo "one_node_slurm.sh: $*" >&2
  exit 1
}
answers() { command -v sinfo >/dev/null && timeout 20 sinfo >/dev/null 2>&1; }
ours() { [ -f "$conf" ] && grep -qxF "$mark" "$conf"; }

# end the daemon of this name that wrote this pid file, if it is running
end() {
  local pid
  pid=$(cat "$2" 2>/dev/null) || return 0
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] || return 0
  kill "$pid"
  for _ in $(seq 100); do
    [ -d "/proc/$pid" ] || return 0
    sleep 0.1
  done
  kill -KILL "$pid"
}

install_packages() {
  command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && return
  command -v apt-get >/dev/null || fail "Slurm is not installed, and without apt-get it cannot be"
  export DEBIAN_FRONTEND=noninteractive
  local get=(apt-get install -qq -y --no-install-recommends slurm-wlm munge)
  "${get[@]}" >/dev/null 2>&1 || { apt-get update -qq && "${get[@]}" >/dev/null; } ||
    fail "apt-get cannot install slurm-wlm and munge"
}

configure() {
  local name memory
  cpus=$(env -u OMP_NUM_THREADS nproc) # nproc would return OMP_NUM_THREADS
  [ "$cpus" -ge 2 ] || cpus=2          # the tests run two jobs at a time
  name=$(hostname -s)
  memory=$(awk '/^MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
  mkdir -p "$state/ctld" "$state/d" /etc/slurm
  # requeued jobs wait for the lifetime of a credential, by default 120 s; two of the partitions are for preemption
  cat >"$conf" <<END
$mark
ClusterName=one_node
SlurmctldHost=$name(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/d
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
MinJobAge=3600
NodeName=$name NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory
PartitionName=main Nodes=$name Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=graceful Nodes=$name MaxTime=INFINITE PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=$name MaxTime=INFINITE PriorityTier=2
END
}

start() {
  if answers; then
    echo "Slurm is running here"
    return
  fi
  [ "$(id -u)" = 0 ] || fail "only root can install and start Slurm"
  [ ! -e "$conf" ] || ours || fail "$conf is of another Slurm; start that one, or use another machine"
  install_packages
  configure
  end slurmctld "$state/slurmctld.pid" # it may be running without answering
  end slurmd "$state/slurmd.pid"
  if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
    install -d -o munge -g munge -m 755 /run/munge
    runuser -u munge -- munged --pid-file=/run/munge/one_node_slurm.pid || fail "munged does not start"
  fi
  slurmctld || fail "slurmctld does not start; see $state/slurmctld.log"
  slurmd || fail "slurmd does not start; see $state/slurmd.log"
  for _ in $(seq 300); do
    if [ "$(sinfo --noheader --partition=main --format=%T 2>/dev/null)" = idle ]; then
      echo "Slurm $(sinfo --version | cut -d' ' -f2) is running: one node, $cpus CPUs; its logs are in $state"
      return
    fi
    sleep 0.1
  done
  fail "Slurm does not answer; see $state/slurmctld.log and $state/slurmd.log"
}

stop() {
  ours || { echo "there is no Slurm of ours" && return; }
  if answers; then
    squeue --noheader --format=%A | sort -u | xargs --no-run-if-empty scancel || true
    for _ in $(seq 100); do
      [ -n "$(squeue --noheader)" ] || break
      sleep 0.1
    done
  fi
  end slurmctld "$state/slurmctld.pid"
  end slurmd "$state/slurmd.pid"
  end munged /run/munge/one_node_slurm.pid
  rm -rf "$state" "$conf"
  echo "stopped"
}

case "${1:-}" in
start) start ;;
stop) stop ;;
*) fail "say start or stop" ;;
esac
