"""Recording rules, alerts and dashboards: the code that generates them, and the generated files.

* `promql`: building blocks for expressions, with names and reasons taken from the service's code.
* `rule`: an alert, a recording rule, and the annotations of an alert for Prometheus and for Grafana.
* `conditions`: the longer queries of alerts.
* `recording`, `burn_rate`, `alerts`: the recording rules and all alerts, each declared once.
* `rules`, `grafana_alerts`: the rule files for Prometheus, its operator, and Grafana.
* `provisioning`: Grafana's data source and dashboard provider.
* `dashboards`: three dashboards, built with Grafana's typed builders.
* `metrics_reference`: `docs/metrics.md`.
* `render`: file name to the function that renders it. `make docs` writes the files; a test compares them.

Used at build and test time only; the service does not import it.
"""
