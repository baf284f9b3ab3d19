"""Grafana's dashboards as code: `python -m grafana.build` writes dashboards/*.json, and nothing here is installed."""
