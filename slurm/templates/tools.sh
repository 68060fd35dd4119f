#!/bin/bash
# Runs a tool over a dataset that was collected: resize, image_verification, duplication_based, size_based, or one of your own.
#
#SBATCH --job-name=shoal-tools
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --signal=B:TERM@120
##SBATCH --partition=PARTITION
##SBATCH --account=ACCOUNT
##SBATCH --mail-type=END,FAIL,REQUEUE
##SBATCH --mail-user=NAME@EXAMPLE.ORG
#
# --cpus-per-task   as many processes a node rewrite files
# --requeue     after a preemption or a failed node, Slurm starts the job again, with the same id
# --no-kill     a node that fails takes its own agent with it, and not the job: the others take over
# --signal      two minutes before the time is out, Shoal stops taking work and, by --chain, asks to be started again
# --open-mode   all runs of the job write into one log

set -euo pipefail

# ---- edit -------------------------------------------------------------------
# Edit this block, and the options above that your site asks for. Then: sbatch tools.sh. Submit it again whenever you like: it goes on
# with the files that are not done. See docs/slurm.md and docs/tools.md.
SHOAL=(shoal)                              # the program, as every node finds it
TOOL=image_verification                    # shoal tools list names them
DATA=/path/to/shared/dataset               # a folder that all nodes see
ARGUMENTS=(launch slurm --chain 3 -- tools run "$TOOL" --data "$DATA")
# ---- end --------------------------------------------------------------------

# exec: Shoal takes the place of this shell, and so gets the signal that Slurm sends to the batch process.
exec "${SHOAL[@]}" "${ARGUMENTS[@]}"
