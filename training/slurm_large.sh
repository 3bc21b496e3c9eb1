#!/usr/bin/env bash
# `large` on 8 nodes of 8 GPUs: sbatch training/slurm_large.sh DINOV3_FOLDER [more options of training.pretrain]
# then the second stage, at 512 px, from what the first one leaves:
#   python -m training.pretrain large --out runs/large --export runs/large/checkpoint
#   RECIPE=large-512 sbatch training/slurm_large.sh runs/large/checkpoint
#SBATCH --job-name=omnistream-large
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=72:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
start=${1:?"give the folder of the DINOv3 weights"}
shift
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# A requeued job finds the newest state in runs/large and goes on from there.
srun .venv/bin/torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 \
  --rdzv-backend c10d --rdzv-endpoint "$head_node:29500" --rdzv-id "$SLURM_JOB_ID" \
  -m training.pretrain "${RECIPE:-large}" --out "runs/${RECIPE:-large}" --start "$start" "$@"
