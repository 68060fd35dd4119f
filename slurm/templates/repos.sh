#!/bin/bash
# Brings sources, one a line in a file, to a folder that all nodes see. All nodes of the job work on them together.
#
#SBATCH --job-name=shoal-repos
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=2G
#SBATCH --time=24:00:00
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
# --requeue     after a preemption or a failed node, Slurm starts the job again, with the same id
# --no-kill     a node that fails takes its own agent with it, and not the job: the others take over
# --signal      two minutes before the time is out, Shoal stops taking work and, by --chain, asks to be started again
# --open-mode   all runs of the job write into one log

set -euo pipefail

# ---- edit -------------------------------------------------------------------
# Edit this block, and the options above that your site asks for. Then: sbatch repos.sh. Submit it again whenever you like: what is
# there is not fetched again. Preempted, requeued, cancelled or out of time, it goes on where it stopped. See docs/slurm.md.
SHOAL=(shoal)                              # the program, as every node finds it
REPOS=$SLURM_SUBMIT_DIR/repos.txt          # hf://ORG/NAME, s3://BUCKET/PREFIX/, https://…: one a line, # comments
TO=/path/to/shared/models                  # a folder that all nodes see
ARGUMENTS=(launch slurm --chain 3 -- get --from-file "$REPOS" --to "$TO")
# ---- end --------------------------------------------------------------------

# exec: Shoal takes the place of this shell, and so gets the signal that Slurm sends to the batch process.
exec "${SHOAL[@]}" "${ARGUMENTS[@]}"
