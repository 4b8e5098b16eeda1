#!/bin/bash
# Builds a set in 8 parts under Slurm, on a file system that all nodes share, and joins them:
#   jid=$(sbatch --parsable --array=0-7 builds/jobs/slurm.sh RECIPE) && sbatch --dependency=afterok:$jid builds/jobs/slurm.sh RECIPE
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
if [ -n "$SLURM_ARRAY_TASK_ID" ]; then
  exec maqam build "$1" --shard auto --workers "$SLURM_CPUS_PER_TASK"
fi
exec maqam build "$1"
