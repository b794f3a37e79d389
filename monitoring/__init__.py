"""Recording rules, alerts and dashboards: the code they are made from, and beside it what is made of it.

* `promql`: names and sets of reasons for expressions, taken from the service's own code.
* `rule`: what an alert is made of, and its texts for Prometheus and for Grafana.
* `conditions`: the longer questions that alerts ask.
* `recording`, `alerts`: THE lists. Everything that fires anywhere stands in `alerts`, once.
* `rules`, `grafana_alerts`: the lists as Prometheus, its operator and Grafana read them.
* `provisioning`: what Grafana is told at its start.
* `dashboards`: three boards, made with Grafana's own typed builders.
* `render`: which file is made by what; `make docs` writes them, a test holds them in step.

Needed while building and testing only; the service knows nothing of it.
"""
