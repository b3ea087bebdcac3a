#!/usr/bin/env bash
# Trains on a slice of Cloud TPU VMs. It runs the same command on all hosts of the slice, which find each other by themselves.
#
#   launch/tpu_vm.sh NAME ZONE cityscapes_1024p --data.root /shared/cityscapes --run.folder /shared/runs/cityscapes_1024p \
#     --cascade.dtype bfloat16 --remat none --batch_size 4 --sharding.mesh 4 4
#
# NAME is a slice that gcloud compute tpus tpu-vm create has made. /shared is a file system that all of its hosts mount, such
# as Filestore; a bucket, gs://BUCKET/FOLDER, will do as well. This script copies the repository to every host, installs it,
# and trains. The same command resumes a run. If the connection breaks, the training goes on, and its output is in
# crn_jax/train.log. To save the state and stop the run:
#
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=0 --command="pkill -TERM -f launch.train"
set -euo pipefail

[ $# -ge 3 ] || { echo "usage: $0 NAME ZONE EXPERIMENT [--field value ...]" >&2; exit 2; }
name=$1 zone=$2
shift 2

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git -C "$(dirname "$0")/.." archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$name":crn_jax.tar.gz --zone="$zone" --worker=all

gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
    set -e
    mkdir -p crn_jax && tar -xzf crn_jax.tar.gz -C crn_jax && cd crn_jax
    python3 -m pip install -q --user uv  # the images' own Python may be too old
    ~/.local/bin/uv venv -q --allow-existing --python 3.12 .venv
    ~/.local/bin/uv pip install -q --python .venv -e '.[tpu,gcs]'
    nohup .venv/bin/python -m launch.train $(printf '%q ' "$@") >> train.log 2>&1 < /dev/null &
    tail -n 0 -F --pid=\$! train.log
    wait \$!"
