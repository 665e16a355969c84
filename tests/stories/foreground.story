# In the foreground `run` is as good as the command itself: its output, its exit code.
$ crewkeep run -- sh -c 'echo out; exit 7' 2>/dev/null
...
out
? 7
$ crewkeep run --name killed --restart never -- sh -c 'kill -TERM $$' >/dev/null 2>&1
? 143
$ crewkeep run --name fine -- true >/dev/null 2>&1
$ crewkeep wait fine killed
fine done
killed crashed
? 1
$ crewkeep wait fine --until done
fine done
$ crewkeep wait fine --until working
fine done
? 1
$ crewkeep run -- no-such-command-anywhere
? 2
! crewkeep: ...no-such-command-anywhere...
!   next: ...
$ crewkeep run --cwd nowhere -- true
? 2
! crewkeep: nowhere is not a directory
!   next: give --cwd a directory that exists
$ crewkeep run --json -- true
? 2
! {"error": "invalid-input", ...}
# Options after -- are the command's own, even those that look like ours.
$ crewkeep run -d --name shown -- echo --name x --json -h -d
shown
~ crewkeep logs shown | grep -qx -- '--name x --json -h -d'
