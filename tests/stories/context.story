# The shared context from a shell: versions, conflicts, history.
$ crewkeep context put plan/auth '{"step": 1}' --if-version 0
1
$ crewkeep context put plan/auth '{"step": 2}' --if-version 1
2
$ crewkeep context put plan/auth '{"step": 9}' --if-version 1
? 4
! crewkeep: 'plan/auth' is at version 2, not at 1
!   next: read it again: crewkeep context get plan/auth
$ crewkeep context put plan/auth '{"step": 9}' --if-version 1 --json
? 4
! {"error": "conflict", "key": "plan/auth", "expected_version": 1, "actual_version": 2, ...}
$ crewkeep context get plan/auth
{"step": 2}
$ crewkeep context put note 'just text'
1
$ crewkeep context get note
just text
$ crewkeep context get note --json
{"key": "note", "value": "just text", "version": 1, "author": null, "epoch": null, "at": "...Z"}
$ seq 3 | crewkeep context put lines -
1
$ crewkeep context get lines | wc -l
4
$ crewkeep context ls
lines
note
plan/auth
$ crewkeep context ls plan/
plan/auth
$ crewkeep context diff plan/auth 1 2
--- plan/auth (version 1)
+++ plan/auth (version 2)
@@ -1,3 +1,3 @@
 {
-  "step": 1
+  "step": 2
 }
$ crewkeep context rm note
2
$ crewkeep context get note
? 3
! crewkeep: there is no key 'note'
!   next: see: crewkeep context ls
$ crewkeep context history note --json
[{"key": "note", "value": null, "version": 2, ..."deleted": true}, {"key": "note", "value": "just text", "version": 1, ...}]
$ crewkeep context put a NaN
? 2
! crewkeep: the value holds nan, which JSON does not have
!   next: ...
$ python3 -c 'print("[" * 100000)' | crewkeep context put a -
? 2
! crewkeep: the value is nested too deeply
!   next: ...
$ printf '\xff' | crewkeep context put a -
? 2
! crewkeep: the value is not UTF-8: ...
!   next: ...
$ crewkeep context check
! the shared context is whole
$ crewkeep context export board.ndjson
! ... keys exported
$ crewkeep -w other ps
? 2
! ...
$ crewkeep context import board.ndjson -w other
! ... keys imported
$ crewkeep context get plan/auth -w other
{"step": 2}
$ crewkeep context ls -w third
