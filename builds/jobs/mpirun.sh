#!/bin/bash
# Builds a set in as many parts as Open MPI starts, then joins them: builds/jobs/mpirun.sh RECIPE 8
mpirun -n "$2" maqam build "$1" --shard auto && exec maqam build "$1"
