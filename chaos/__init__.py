"""What an attacker, a bad client and a bad upstream do to the calls of others: `make chaos`.

`attacks` lists what is tried. `attacker` (clients) and `hostile` (upstream) run in processes of their own, `calls` holds the
well-behaved sessions, `relay` starts the relay, `measure` takes one measurement, `endurance` a long one, and `verdict`
compares measurements with the bounds.
"""
