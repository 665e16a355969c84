# The first five minutes: start something, see it, read it, talk to it, end it.
$ crewkeep ps
! no sessions; start one: crewkeep run -- CMD (ended ones: crewkeep ps -a)
$ crewkeep run -d --name echo -- sh -c 'echo ready; while read line; do echo "got: $line"; done'
echo
! session echo (...) runs; watch it: crewkeep attach echo
~ crewkeep logs echo | grep -q ready
$ crewkeep ps | grep -c '^echo  *\(working\|idle\)  *generic  *1  *0 '
1
$ crewkeep send echo 'hello there'
~ crewkeep logs echo | grep -qx 'got: hello there'
$ printf 'from stdin\n' | crewkeep send echo -
~ crewkeep logs echo | grep -qx 'got: from stdin'
$ crewkeep logs -n 1 echo
got: from stdin
$ crewkeep run -d --name echo -- true
? 5
! crewkeep: ...echo...
!   next: ...
$ crewkeep rm echo
? 5
! crewkeep: not ended: echo
!   next: crewkeep stop echo, or crewkeep rm --force echo
$ crewkeep stop echo
echo: ... ended, 0 left
$ crewkeep ps -q
$ crewkeep ps -a | grep -c '^echo  *stopped '
1
$ crewkeep send echo again
? 5
! crewkeep: session echo has ended (stopped)
!   next: read what it printed: crewkeep logs echo, or bring it back: crewkeep restore echo
$ crewkeep logs echo | tail -1
got: from stdin
$ crewkeep rm echo
echo
$ crewkeep ps -a --json
[]
