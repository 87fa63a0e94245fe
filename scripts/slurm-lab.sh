#!/usr/bin/env bash
# A Slurm of two nodes on this machine, for tests: no systemd, no cgroups, nothing outside one folder.
#
#   scripts/slurm-lab.sh run COMMAND...   brings it up, runs the command in it, takes it down whatever happened
#   scripts/slurm-lab.sh up               prints the line that a shell needs to use it
#   scripts/slurm-lab.sh down             ends its jobs and daemons, and removes its state
#
# SLURM_LAB        its folder (default: target/slurm-lab)
# SLURM_LAB_PORT   of slurmctld; the nodes take the two after it (default: three that are free)
#
# Installs slurm-wlm and munge where they are missing. Each node has 4 CPUs, whatever the machine has, and two
# GPUs, which are copies of /dev/null.
set -euo pipefail
cd "$(dirname "$0")/.."

lab=$(realpath -m "${SLURM_LAB:-target/slurm-lab}")
socket=$lab/munge.socket
export SLURM_CONF=$lab/slurm.conf

die() {
  echo "error: $1" >&2
  [ -z "${2:-}" ] || printf '\nhint: %s\n' "$2" >&2
  exit 1
}

# Waits up to some seconds until a command succeeds.
until_true() {
  local left=$(($1 * 20))
  shift
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || return 1
    sleep 0.05
  done
}

need() {
  local program missing=0
  for program in slurmctld slurmd munged sbatch scontrol; do
    command -v "$program" >/dev/null || missing=1
  done
  [ "$(id -u)" = 0 ] || die "the tests under Slurm start its daemons, which needs root" \
    "run \`make test-slurm\` as root, for example in a container; \`make test\` needs no root"
  [ "$missing" = 1 ] || return 0
  command -v apt-get >/dev/null || die "slurmctld, slurmd or munged is missing" "install Slurm and munge"
  # The packages' own services are not wanted.
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f /usr/sbin/policy-rc.d' RETURN
  fi
  apt-get -o Acquire::Retries=3 update -qq || true
  DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends slurm-wlm munge >&2 ||
    die "slurm-wlm and munge cannot be installed" "install them by hand: apt-get install slurm-wlm munge"
}

# The first of three ports in a row that nobody listens on.
free_port() {
  python3 - <<'PY'
import random, socket
while True:
    first = random.randrange(20000, 30000)
    try:
        for port in range(first, first + 3):
            with socket.socket() as one:
                one.bind(("127.0.0.1", port))
    except OSError:
        continue
    print(first)
    break
PY
}

write_configuration() {
  local host port node
  host=$(hostname -s)
  port=${SLURM_LAB_PORT:-$(free_port)}
  mkdir -p "$lab"/{log,run,state,spool/n0,spool/n1,dev}
  (umask 077 && head -c 1024 /dev/urandom >"$lab/munge.key")
  for node in 0 1; do
    [ -e "$lab/dev/gpu$node" ] || mknod "$lab/dev/gpu$node" c 1 3
  done
  echo "NodeName=n[0-1] Name=gpu Type=fake File=$lab/dev/gpu[0-1]" >"$lab/gres.conf"
  cat >"$SLURM_CONF" <<CONF
ClusterName=ptv2
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
StateSaveLocation=$lab/state
SlurmdSpoolDir=$lab/spool/%n
SlurmctldPidFile=$lab/run/slurmctld.pid
SlurmdPidFile=$lab/run/%n.pid
SlurmctldLogFile=$lab/log/slurmctld.log
SlurmdLogFile=$lab/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
# A machine may claim more CPUs than it has.
SlurmdParameters=config_overrides
# Longer than what the tests wait for, so that what they see ended went by itself. A lost node is soon seen to be lost.
KillWait=30
SlurmdTimeout=10
InactiveLimit=0
GresTypes=gpu
NodeName=n0 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=4 RealMemory=1000 Gres=gpu:fake:2
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=4 RealMemory=1000 Gres=gpu:fake:2
PartitionName=main Nodes=n[0-1] Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=urgent Nodes=n[0-1] State=UP PriorityTier=10 PreemptMode=OFF
CONF
}

start_node() {
  slurmd -f "$SLURM_CONF" -N "$1" || die "slurmd of $1 did not start" "see $lab/log/$1.log"
}

both_idle() {
  [ "$(sinfo --noheader --partition main --states idle --format %D)" = 2 ]
}

up() {
  need
  down
  write_configuration
  # munged refuses folders that others may write to, as /tmp, unless it is forced.
  munged --force --socket="$socket" --key-file="$lab/munge.key" --pid-file="$lab/run/munged.pid" \
    --log-file="$lab/log/munged.log" --seed-file="$lab/munge.seed" --num-threads=2 2>"$lab/log/munged.err" ||
    die "munged did not start: $(cat "$lab/log/munged.err")"
  slurmctld -f "$SLURM_CONF" -i || die "slurmctld did not start" "see $lab/log/slurmctld.log"
  until_true 60 scontrol ping || die "slurmctld does not answer" "see $lab/log/slurmctld.log"
  start_node n0
  start_node n1
  until_true 60 both_idle || die "the nodes did not become idle" "see $lab/log"
}

# Whether a process was started in this lab.
is_ours() {
  tr '\0' '\n' 2>/dev/null <"/proc/$1/environ" | grep -qxF "SLURM_CONF=$SLURM_CONF" ||
    tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF "$lab/"
}

# Processes of Slurm that belong to this lab, and no others.
ours() {
  local process
  for process in /proc/[0-9]*; do
    grep -qsE '^(slurmctld|slurmd|slurmstepd|munged|srun)' "$process/comm" || continue
    ! is_ours "${process#/proc/}" || echo "${process#/proc/}"
  done
}

none_left() {
  [ -z "$(ours)" ]
}

no_jobs() {
  [ -z "$(squeue --noheader)" ]
}

down() {
  [ -e "$SLURM_CONF" ] || return 0
  if timeout 5 scontrol ping 2>/dev/null | grep -q 'is UP'; then
    timeout 5 scancel --user root >/dev/null 2>&1 || true
    until_true 12 no_jobs || true
  fi
  local process
  for process in $(ours); do
    kill -TERM "$process" 2>/dev/null || true
  done
  if ! until_true 10 none_left; then
    for process in $(ours); do
      kill -KILL "$process" 2>/dev/null || true
    done
  fi
  rm -rf "$lab"/{state,spool,run,dev,munge.*,slurm.conf,gres.conf}
}

case ${1:-} in
  up)
    up
    echo "export SLURM_CONF=$SLURM_CONF"
    ;;
  down) down ;;
  run)
    shift
    trap down EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    up
    "$@"
    ;;
  node)
    start_node "$2"
    ;;
  *)
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
