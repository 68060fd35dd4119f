"""``shoal doctor``: looks at all that a download, an agent or a client needs, and says what to do where something is wrong.

=================  ==================================================================================  ===============
module             what it knows                                                                       does I/O
=================  ==================================================================================  ===============
records            a finding, a check                                                                  no
checks             the table of all checks, in the order of the report                                 no
visit              what the checks of one run share: settings, what was asked for, answers by now      by others
examination        runs checks side by side, each bounded in time; one that crashes has failed         by others
report             the table for people, the document for programs, the exit code                      no
network            endpoints: names, connections, proxies, TLS, HTTP; the clock                        by probing
probing            going to an endpoint, step by step                                                  yes
certificates       what a server's certificate says, and what its refusal means                        a file
access             tokens, sources, stores                                                             yes
configuration      settings, packages                                                                  yes
disk               destinations: writable, room, inodes, what their file systems can do                by disk_probing
disk_probing       making, writing, locking, renaming and removing files there                         yes
machine            memory, open files, processes, permissions                                          reads /proc
cluster            MPI and Slurm                                                                       runs them
fleet              the coordinator, and the ports of the other agents                                  yes
command            the command line                                                                    prints
=================  ==================================================================================  ===============

In each of them what decides takes what was seen and returns a `Finding`; what looks is beside it and decides nothing.
"""
