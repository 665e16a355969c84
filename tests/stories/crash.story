# kill -9 of an agent, then of its keeper: the session is back, one epoch on, and nothing it wrote is lost.
$ crewkeep run -d --name worker -- sh -c 'crewkeep context put "born/$CREWKEEP_EPOCH" "$$"; exec sleep 300' >/dev/null
$ crewkeep wait worker --until working,idle --timeout 10s
worker ...
~ crewkeep context get born/1
$ crewkeep context get born/1 --json | grep -c '"author": "worker", "epoch": 1'
1
$ kill -9 $(crewkeep inspect worker --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["agent_pid"])')
~ crewkeep context get born/2
$ crewkeep context get born/2 --json | grep -c '"author": "worker", "epoch": 2'
1
$ kill -9 $(crewkeep inspect worker --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["keeper_pid"])')
~ crewkeep context get born/3
$ crewkeep ps --json | python3 -c 'import json,sys; r, = json.load(sys.stdin); print(r["name"], r["epoch"], r["restarts"])'
worker 3 2
$ crewkeep why worker | head -2 | tail -1
verdict: HEALTHY - ...
$ crewkeep recover worker --json | python3 -c 'import json,sys; r, = json.load(sys.stdin); print(r["verdict"], r["outcome"])'
HEALTHY nothing to do
$ crewkeep kill worker
worker: ... ended, 0 left
$ pgrep -f "$CREWKEEP_HOME/.*worker"
? 1
