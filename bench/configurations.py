"""The configuration files of the contenders."""

from pathlib import Path
from typing import Final

LITELLM_MASTER_KEY: Final = "sk-bench-master"
# No download of a price list at the start, and no telemetry: no request leaves the machine.
LITELLM_ENVIRONMENT: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
}


def haproxy(port: int, upstream_port: int, bundle: Path | None, key: str) -> str:
    """HAProxy with one thread."""
    server = f"localhost:{upstream_port} ssl verify required ca-file {bundle} sni str(localhost)" if bundle else ""
    return f"""\
global
  nbthread 1
  maxconn 9900
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
frontend clients
  bind 127.0.0.1:{port}
  http-request set-header Authorization "Bearer {key}"
  http-request set-header Host localhost:{upstream_port}
  default_backend provider
backend provider
  server provider {server or f"127.0.0.1:{upstream_port}"}
"""


def nginx(folder: Path, port: int, upstream_port: int, bundle: Path | None, key: str) -> str:
    """Nginx with one worker; its buffer holds a whole event, for which the default of 4 kB would need two reads."""
    tls = f"""
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate {bundle};
      proxy_ssl_name localhost;
      proxy_ssl_server_name on;
      proxy_ssl_protocols TLSv1.2 TLSv1.3;"""
    paths = "".join(
        f"  {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 10000; }}
http {{
  access_log off;
{paths}  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass {"https" if bundle else "http"}://127.0.0.1:{upstream_port};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_set_header Host localhost:{upstream_port};
      proxy_set_header Authorization "Bearer {key}";
      proxy_buffer_size 16k;
      proxy_buffers 8 16k;
      proxy_read_timeout 3700s;
      proxy_send_timeout 3700s;{tls if bundle else ""}
    }}
  }}
}}
"""


def litellm(upstream_port: int, *, is_tls: bool, key: str) -> str:
    """LiteLLM with one model."""
    base = f"https://localhost:{upstream_port}" if is_tls else f"http://127.0.0.1:{upstream_port}"
    return f"""\
model_list:
  - model_name: gpt-realtime
    litellm_params:
      model: openai/gpt-realtime
      api_key: {key}
      api_base: {base}
general_settings:
  master_key: {LITELLM_MASTER_KEY}
litellm_settings:
  telemetry: false
"""
