# Background work can be quieted and comes back without loss.
$ crewkeep breaker status
closed
$ crewkeep breaker open 'disk is being moved'
open: disk is being moved
$ crewkeep breaker status --json
{"state": "open", "reason": "disk is being moved", "by_request": true, "changed_at": "...Z", "trips": 0}
$ crewkeep breaker close
closed
$ crewkeep features recovery observe
sync      on
recovery  observe
$ crewkeep features --json
{"sync": "on", "recovery": "observe", "note": null}
$ crewkeep features sync maybe
? 2
! crewkeep: sync cannot be 'maybe'
!   next: choose one of on, off
$ crewkeep features recovery on
sync      on
recovery  on
