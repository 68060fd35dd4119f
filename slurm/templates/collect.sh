#!/bin/bash
# Makes a dataset of a table of URLs (CSV, TSV or Parquet), politely: all nodes together stay within each server's budget.
#
#SBATCH --job-name=shoal-collect
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=8G
#SBATCH --time=48:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --signal=B:TERM@180
##SBATCH --partition=PARTITION
##SBATCH --account=ACCOUNT
##SBATCH --mail-type=END,FAIL,REQUEUE
##SBATCH --mail-user=NAME@EXAMPLE.ORG
#
# --cpus-per-task   pictures are decoded by as many processes
# --requeue     after a preemption or a failed node, Slurm starts the job again, with the same id
# --no-kill     a node that fails takes its own agent with it, and not the job: the others take over
# --signal      three minutes before the time is out, Shoal stops taking work and, by --chain, asks to be started again
# --open-mode   all runs of the job write into one log

set -euo pipefail

# ---- edit -------------------------------------------------------------------
# Edit this block, and the options above that your site asks for. Then: sbatch collect.sh. Submit it again whenever you like: rows that
# were fetched are not fetched again. Rates, image size and the rest are settings, in shoal.toml beside the script. See docs/slurm.md.
SHOAL=(shoal)                              # the program, as every node finds it
TABLE=/path/to/shared/urls.parquet         # a file, a glob or a folder that all nodes see
TO=/path/to/shared/dataset                 # a folder that all nodes see
ARGUMENTS=(launch slurm --signal B:TERM@180 --chain 10 -- collect "$TABLE" --to "$TO")
# ---- end --------------------------------------------------------------------

# exec: Shoal takes the place of this shell, and so gets the signal that Slurm sends to the batch process.
exec "${SHOAL[@]}" "${ARGUMENTS[@]}"
