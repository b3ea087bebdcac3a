#!/usr/bin/env bash
# A SLURM cluster of several "nodes" on this one machine, for tests of launch/*.sbatch:
#
#   apt-get install -y --no-install-recommends slurm-wlm munge  # Debian's has MULTIPLE_SLURMD
#   slurm_lab.sh start FOLDER PORT [NODES]  # 2 nodes by default; takes PORT and the 20 after it
#   SLURM_CONF=FOLDER/slurm.conf squeue     # so do sbatch, srun, scancel and scontrol find it
#   slurm_lab.sh stop FOLDER                # cancels its jobs, and ends the daemons that `start` has started
#
# It touches nothing outside FOLDER, uses loopback addresses only, and needs root, but neither systemd nor cgroups. Each node has
# 8 CPUs (whatever the machine has) and 8 "GPUs", which are copies of /dev/null: set JAX_PLATFORMS=cpu. The nodes are called
# 127.0.0.1, 127.0.0.2 and so on, because JAX's processes meet at the first node's name. Partitions: "low" (default; its jobs are
# preempted and requeued, after 60 s of grace), "nograce" (likewise, at once), and "high", which preempts both.
set -euo pipefail

configure() {
    local nodes=$1 base=$2 host i
    host=$(hostname -s)
    mkdir -p "$lab"/{state,log,run,munge,gpus} && chmod 755 "$lab" && chmod 700 "$lab/munge"
    for i in $(seq 0 7); do [ -e "$lab/gpus/gpu$i" ] || mknod "$lab/gpus/gpu$i" c 1 3; done # as /dev/null
    [ -s "$lab/munge/key" ] || { head -c 1024 /dev/urandom > "$lab/munge/key" && chmod 400 "$lab/munge/key"; }
    cat > "$lab/slurm.conf" <<CONF
ClusterName=lab
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$base
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$lab/run/munge.socket,cred_expire=5
StateSaveLocation=$lab/state
SlurmdSpoolDir=$lab/spool.%n
SlurmctldPidFile=$lab/run/slurmctld.pid
SlurmdPidFile=$lab/run/slurmd.%n.pid
SlurmctldLogFile=$lab/log/slurmctld.log
SlurmdLogFile=$lab/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
JobRequeue=1
KillWait=30
MinJobAge=3600
LaunchParameters=use_interactive_step
SlurmctldTimeout=60
SlurmdTimeout=300
InactiveLimit=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$(for i in $(seq "$nodes"); do
    echo "NodeName=127.0.0.$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + i)) CPUs=8 Sockets=1 CoresPerSocket=8" \
        "ThreadsPerCore=1 RealMemory=4000 Gres=gpu:8 State=UNKNOWN"
done)
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=nograce Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
    echo "Name=gpu File=$lab/gpus/gpu[0-7]" > "$lab/gres.conf"
    # Versions before 23 know no such plugin.
    [ "$(slurmd -V | grep -oE '[0-9]+' | head -1)" -lt 23 ] || echo "CgroupPlugin=disabled" > "$lab/cgroup.conf"
}

running() { [ -s "$1" ] && grep -q '^State:[[:space:]]*[^ZX]' "/proc/$(cat "$1")/status" 2>/dev/null; } # a zombie is not

start() {
    local base=$1 nodes=$2 i
    configure "$nodes" "$base"
    munged --force --num-threads=2 --socket="$lab/run/munge.socket" --key-file="$lab/munge/key" --seed-file="$lab/munge/seed" \
        --pid-file="$lab/run/munged.pid" --log-file="$lab/log/munged.log" 2> "$lab/log/munged.err"
    slurmctld -c
    for i in $(seq "$nodes"); do slurmd -N "127.0.0.$i"; done
    for i in $(seq 600); do
        [ "$(sinfo -h -p low -t idle -o %D 2>/dev/null)" = "$nodes" ] && return
        sleep 0.1
    done
    sinfo -N -l
    echo "Not all nodes have come up; see $lab/log." >&2
    return 1
}

stop() {
    local file
    scancel -u "$(id -un)" 2>/dev/null || true
    for file in "$lab"/run/{slurmd.*,slurmctld,munged}.pid; do
        if running "$file"; then kill "$(cat "$file")"; fi
    done
    for file in "$lab"/run/*.pid; do
        for _ in $(seq 100); do running "$file" || break; sleep 0.1; done
        if running "$file"; then kill -KILL "$(cat "$file")"; fi
    done
}

[ $# -ge 2 ] || { sed -n '2,/^set/s/^# \?//p' "$0"; exit 2; }
lab=$2
export SLURM_CONF=$lab/slurm.conf
case "$1" in
    start) start "$3" "${4:-2}" ;;
    stop) stop ;;
    *) exit 2 ;;
esac
