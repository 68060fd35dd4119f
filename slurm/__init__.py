"""Shoal inside an allocation of a cluster: Slurm, srun and MPI start the processes, this part makes one fleet of them."""
