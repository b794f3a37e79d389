"""The benchmark: the cost of the relay beside other proxies, and its behaviour over ten minutes.

`wire` parses frames, `messages` stamps and verifies messages, `endpoints` are both ends of a session, `load` drives many
sessions, `process` starts a contender and measures its CPU and memory, `contenders` configures each, `network` cuts and
joins messages as a network does, `measure` takes one measurement, `matrix` alternates the contenders, `report`,
`network_report` and `plot` render the results. `soak` loads the relay alone, `scanner` measures the parsing alone.
"""
