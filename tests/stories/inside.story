# A session finds itself, and what it writes bears its name.
$ crewkeep run -d --name me -w shop -- sh -c 'crewkeep inspect . --json > me.json; crewkeep context put note hi; sleep 300' >/dev/null
~ crewkeep context get note -w shop
$ crewkeep context get note -w shop --json
{"key": "note", "value": "hi", "version": 1, "author": "me", "epoch": 1, "at": "..."}
$ python3 -c 'import json; r = json.load(open("me.json")); print(r["name"], r["workspace"], r["epoch"])'
me shop 1
$ crewkeep context get note
? 3
! crewkeep: there is no key 'note'
!   next: see: crewkeep context ls
$ crewkeep kill --all
me: ... ended, 0 left
