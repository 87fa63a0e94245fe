#!/usr/bin/env bash
# Runs a command and notes how long it took: scripts/timed.sh NAME COMMAND...
set -euo pipefail
name=$1
shift
began=$(date +%s)
"$@"
seconds=$(($(date +%s) - began))
mkdir -p target
printf '%-12s %3d min %02d s\n' "$name" $((seconds / 60)) $((seconds % 60)) | tee -a target/times
