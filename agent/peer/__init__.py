"""The peer exchange: other agents fetch byte ranges of objects from this one, also of objects that are still arriving.

================  ==========================================================  ==============
module            reason to change                                            does I/O
================  ==========================================================  ==============
stretch           what can be sent: the contract with who owns the files      no
message           the grammar of requests and answers                         no
limits            what serving may cost                                       no
slots             who sends now and who waits                                 no (waits)
transport         bytes out of a file, into a socket or a TLS session         yes
connection        one connection: requests, answers, waiting, silence         by transport
server            the port: who may connect, start and stop                   yes
================  ==========================================================  ==============
"""
