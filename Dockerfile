# Two stages: the first installs the locked dependencies; the second adds only program and environment to the base: no compiler, no
# cache, no pip of its own (that of the base stays outside /venv). It does not run as root.
# BASE can be pinned by digest: --build-arg BASE=python:3.11-slim@sha256:...
# The build is reproducible: the same files on the same base give the same layers; `make e2e-container` compares two builds.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
# The hash seed determines the order in which sets are written into bytecode.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONHASHSEED=0
RUN ["python", "-m", "venv", "--without-pip", "/venv"]
COPY requirements/runtime.txt /tmp/runtime.txt
RUN ["python", "-m", "pip", "--python", "/venv/bin/python", "install", "--no-compile", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", "/tmp/runtime.txt"]
COPY service /app/service
COPY docs/runbooks /app/service/runbooks
COPY tools/install_command.py /tmp/install_command.py
RUN ["/venv/bin/python", "/tmp/install_command.py", "/app"]
# Unchecked hash-based bytecode: it holds no timestamp, and Python does not compare it with the source, which never changes here.
RUN ["/venv/bin/python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/venv/lib", "/app/service"]
# Normalise modes and timestamps, which differ between checkouts. A RUN of its own, because the exec form runs one program.
# hadolint ignore=DL3059
RUN ["find", "/venv", "/app", "!", "-type", "l", "-exec", "chmod", "u=rwX,go=rX", "{}", "+", ",", "-exec", "touch", "--no-dereference", "--date=1980-01-01T00:00:00Z", "{}", "+"]

FROM ${BASE}
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RELAY_HOST=0.0.0.0 \
    RELAY_INTERNAL_HOST=0.0.0.0
# A number, so that Kubernetes can verify that it is not root.
USER 10001:10001
EXPOSE 8080 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["python", "-m", "service", "probe", "livez"]
ENTRYPOINT ["python", "-m", "service"]
CMD ["serve"]
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="realtime-relay" \
      org.opencontainers.image.description="Relays OpenAI's voice APIs, Realtime and GPT-Live, and explains connection failures" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
