"""Proof: tools that look for a way to make the shared context lose, invent or tear something.

They see a directory, the system calls of a program and the public API; only ``engine`` knows names of today's inside, and
says loudly when one of them is gone. What is here:

  trace, operations, recorder   a program's system calls -> what it did to the files below one directory
  disk, crashes                 those operations -> every state that a crash may leave, in three models
  program, scenarios, witness   what is done, said before and after, and therefore to be found afterwards
  inspector, pool               whether a state keeps every promise, thousands of them a minute
  interruption                  kill -9 and errors at every single system call
  damage                        every truncation, every flipped bit
  history, register, crew       what many processes did to a few keys, and whether one register could have answered so
  planted, engine               bugs planted on purpose, each of which one of the tools must find

Bounded in a default test run; ``PROVE=1`` (``make prove``) is the whole of it. ``SEED`` repeats what was drawn by lot.
"""
