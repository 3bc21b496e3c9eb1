#!/usr/bin/env bash
# Trains a recipe on one GPU in pieces of a few minutes, and leaves the newest weights in $OUT as bfloat16 files of at most
# 15 MB: training/on_gpu.sh RECIPE MINUTES_OF_THE_RUN MINUTES_OF_THIS_PIECE [more options of training.pretrain]
# The same line again goes on from where it stopped, for as long as runs/ is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
recipe=$1 minutes=$2 piece=$3
shift 3
out=runs/$recipe-gpu
command=(python3 -m training.pretrain "$recipe" --out "$out" --device cuda --minutes "$minutes" "$@")
"${command[@]}" --pause-after "$piece"
"${command[@]}" --export "${OUT:-out}/checkpoint" --shard-mb 15
cp "$out/log.jsonl" "${OUT:-out}/"
