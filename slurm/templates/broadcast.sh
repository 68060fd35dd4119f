#!/bin/bash
# Brings a model (or environment, or dataset) to the local disk of every node, then starts the training step on the same nodes.
# One copy leaves the store; the nodes give it to each other.
#
#SBATCH --job-name=shoal-broadcast
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
##SBATCH --partition=PARTITION
##SBATCH --account=ACCOUNT
##SBATCH --gpus-per-node=8
##SBATCH --mail-type=END,FAIL,REQUEUE
##SBATCH --mail-user=NAME@EXAMPLE.ORG
#
# --requeue     after a preemption or a failed node, Slurm starts the job again, with the same id; what is on a disk is not sent again
# --signal      goes to Shoal, and from it to the step after it
# No --no-kill: a training step cannot go on without one of its nodes.

set -euo pipefail

# ---- edit -------------------------------------------------------------------
# Edit this block, and the options above that your site asks for. Then: sbatch broadcast.sh. See docs/slurm.md.
SHOAL=(shoal)                              # the program, as every node finds it
SOURCE=hf://ORG/NAME                       # or s3://BUCKET/PREFIX/, https://…
SCRATCH=/local/scratch                     # a folder on the local disk of each node
ARGUMENTS=(launch slurm --then 'srun python train.py --weights "$SHOAL_DESTINATION"'
           -- get "$SOURCE" --deliver replicate --to "$SCRATCH/model")
# ---- end --------------------------------------------------------------------

# exec: Shoal takes the place of this shell, and so gets the signal that Slurm sends to the batch process.
exec "${SHOAL[@]}" "${ARGUMENTS[@]}"
