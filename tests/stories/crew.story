# Two sessions keep off each other's files and leave each other messages.
$ crewkeep run -d --name api -- sh -c 'while [ ! -e go ]; do sleep 0.05; done; crewkeep inbox > read.txt; touch done; sleep 300' 2>/dev/null
api
$ crewkeep run -d --name web -- sleep 300 2>/dev/null
web
$ mkdir src && crewkeep claim src -s api --for 1h
.../src is api's until ...
$ crewkeep claim 'src/*.py' -s web
? 4
! crewkeep: src/*.py is claimed by session api (src) for 60 min
!   next: ask it: crewkeep tell api TEXT; or see crewkeep claims
$ crewkeep claim schema -s web --json
{"what": "schema", "form": "name", "target": "schema", ..., "shared": false, "session": "...", "name": "web", "epoch": 1, ...}
$ crewkeep claims
SESSION  UNTIL                     LEFT  HOW    WHAT
api      ...  59m   alone  .../src/
web      ...  29m   alone  schema
$ crewkeep release schema -s web
schema is free
$ crewkeep claim anything
? 2
! crewkeep: a claim belongs to a session, and this is none
!   next: name it: --session SESSION
$ crewkeep tell api the schema has changed
... waits for api
$ crewkeep inbox api
ID            AT                        FROM  STATE  TEXT
...  user  new    the schema has changed
$ touch go
~ test -e done
$ cat read.txt
[Message ... from user, another session of this crew]
the schema has changed
$ crewkeep inbox api
! no messages
$ crewkeep inbox api --all
ID            AT                        FROM  STATE  TEXT
...  user  read   the schema has changed
$ crewkeep stop api
api: ... ended, 0 left
$ crewkeep claim 'src/*.py' -s web
.../src/*.py is web's until ...
$ crewkeep tell api too late
? 5
! crewkeep: session api has ended and would not read it
!   next: bring it back first: crewkeep resume api
$ crewkeep kill --all
web: ... ended, 0 left
