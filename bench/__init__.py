"""The benchmark: what the relay costs beside other proxies that do the same work, and what it does over ten minutes.

`wire` cuts frames, `messages` stamps and checks what passes, `ends` are both ends of a session, `load` drives many of them,
`process` starts and weighs a contender, `contenders` says how each is set up, `measure` takes one figure of each kind,
`matrix` alternates the contenders, `report` and `plot` render what was measured. `soak` is the long form for the relay alone.
"""
