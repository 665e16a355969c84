# Every mistake is answered with the thing, the cause and the next step, and its own exit code.
$ crewkeep inspect nobody
? 3
! crewkeep: there is no session 'nobody'
!   next: see `crewkeep ps -a`
$ crewkeep why nobody --json
? 3
! {"error": "not-found", ...}
$ crewkeep stop .
? 2
! crewkeep: '.' means the session one is in, and this is none
!   next: name the session
$ crewkeep nonsense
? 2
! Usage: crewkeep [OPTIONS] COMMAND [ARGS]...
! Try 'crewkeep -h' for help.
! 
! Error: No such command 'nonsense'...
$ crewkeep wait x --timeout soon
? 2
! crewkeep: --timeout cannot be 'soon'
!   next: give a length of time such as 90s, 5m or 1h30m
$ crewkeep kill
? 2
! crewkeep: kill needs sessions or --all, one of them
!   next: crewkeep kill SESSION, or crewkeep kill --all
$ crewkeep kill --all --json
[]
$ crewkeep recover --yes
? 2
! crewkeep: --yes acts only on what was named
!   next: crewkeep recover SESSION --yes, or recover --all --yes
$ CREWKEEP_GRACE_S=soon crewkeep ps
? 2
! crewkeep: grace_s cannot be 'soon' (from CREWKEEP_GRACE_S): ...
!   next: the default is 5.0
$ crewkeep context get no/such/key
? 3
! crewkeep: there is no key 'no/such/key'
!   next: see: crewkeep context ls
$ crewkeep context put ../up 1
? 2
! crewkeep: ...
!   next: ...
$ crewkeep context watch --from x
? 2
! crewkeep: --from cannot be 'x'
!   next: give SHARD:REVISION, for example 2:117
$ crewkeep attach nobody
? 3
! crewkeep: there is no session 'nobody'
!   next: see `crewkeep ps -a`
$ crewkeep service status
not installed (...); install it: crewkeep service install
? 69
$ CREWKEEP_HOME=/proc/nowhere crewkeep run -d -- true
? 1
! crewkeep: cannot ...
!   next: ...
$ crewkeep ps --help | head -1
Usage: crewkeep ps [OPTIONS]
$ crewkeep --help >/dev/full
? 1
! ...
