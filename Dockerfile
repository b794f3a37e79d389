# Two stages: the first installs the locked dependencies, the second has no compiler, no cache and no root.
# BASE may be pinned by digest: --build-arg BASE=python:3.11-slim@sha256:...
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN ["python", "-m", "venv", "/opt/relay"]
COPY requirements/runtime.txt /tmp/runtime.txt
RUN ["/opt/relay/bin/python", "-m", "pip", "install", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", "/tmp/runtime.txt"]
COPY service /app/service
RUN ["/opt/relay/bin/python", "-m", "compileall", "-q", "/app/service"]

FROM ${BASE}
LABEL org.opencontainers.image.title="realtime-relay" \
      org.opencontainers.image.description="Relays the OpenAI Realtime API and says why when it cannot" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/relay /opt/relay
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/opt/relay/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RELAY_HOST=0.0.0.0 \
    RELAY_INTERNAL_HOST=0.0.0.0
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 8080 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["python", "-m", "service", "probe", "livez"]
ENTRYPOINT ["python", "-m", "service"]
CMD ["serve"]
