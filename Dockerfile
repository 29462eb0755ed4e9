# Images from one file: `serve` answers, `train` trains and exports, `proxy` speaks TLS where
# compose is asked for it. `make images` builds them and gives them their version; docker, podman
# and buildah do it alone too, without a version: `docker build --target serve --tag liere-serve .`

# --- what both stand on ----------------------------------------------------------------------

# tini is process 1: the kernel drops signals to a process 1 without a handler, and Python has
# none while it imports. BASE: a digest, `debian@sha256:...`, builds on the same image each time;
# none stands here, because whoever builds has to have seen it in a registry of their own.
ARG BASE=debian:bookworm-slim
FROM $BASE AS debian
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \
    && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin liere \
    && mkdir /app \
    && install --directory --owner 10001 --group 10001 /jobs

# One layer over nothing: a base image whose own / only root may enter would shut out every user.
FROM scratch AS base
# What is shipped is compiled already, and nothing but /tmp need be writable.
ENV PATH=/venv/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
LABEL org.opencontainers.image.title="LieRE" \
      org.opencontainers.image.description="Vision transformers with learned rotary positions"
COPY --from=debian / /
WORKDIR /app

# --- packages: pip stays in /pip, which no image gets ----------------------------------------

FROM base AS pip
# Bytecode that is never compared with its source: a copied layer may change the times of files.
ENV PIP="/pip/bin/pip --python /venv/bin/python --disable-pip-version-check --no-cache-dir" \
    COMPILE="python3 -m compileall -q --invalidation-mode unchecked-hash -x /torch/testing/"
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && python3 -m venv /pip \
    && python3 -m venv --without-pip /venv
COPY pyproject.toml constraints.txt ./

FROM pip AS serve-packages
# PIP_ARGS: more arguments for pip, such as an index. EXTRA=gpu: for an NVIDIA GPU with CUDA 13.
ARG PIP_ARGS=""
ARG EXTRA=cpu
RUN $PIP install --no-compile -c constraints.txt $PIP_ARGS ".[serve,otel,grpc,$EXTRA]" \
    && $PIP check \
    && $COMPILE /venv/lib

FROM pip AS train-packages
ARG PIP_ARGS=""
RUN $PIP install --no-compile -c constraints.txt $PIP_ARGS "$(grep ^torch== constraints.txt)" \
    && $PIP install --no-compile -c constraints.txt $PIP_ARGS '.[train,export,cpu]' \
    && $PIP check \
    && $COMPILE /venv/lib

# --- code: owned by root, readable by all, writable by nobody else ---------------------------

FROM base AS code
COPY . /checkout
RUN cd /checkout \
    && mkdir -p /serve /train/data /train/runs /train/bundles \
    && cp -r media models service bundles LICENSE THIRD_PARTY.md /serve \
    && cp -r media models training export LICENSE THIRD_PARTY.md /train \
    && chmod -R u=rwX,go=rX /serve /train \
    && chown 10001:10001 /train/data /train/runs /train/bundles \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /serve /train

# --- serve: answers on port 8000 as soon as it runs, with the bundles of the checkout --------

FROM base AS serve
USER 10001:10001
EXPOSE 8000
# Volumes, keys and devices may come later than the process that needs them.
# Whoever sends requests gets 5 s to see that it ends, which with the 20 s of grace are less than
# the 30 s until compose kills it.
ENV LIERE_HOST=0.0.0.0 \
    LIERE_RETRY_START=true \
    LIERE_READY=all \
    LIERE_DRAIN_DELAY=5
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-m", "service", "health"]
ENTRYPOINT ["tini", "--", "python", "-m", "service"]
COPY --from=serve-packages /venv /venv
COPY --from=code /serve /app

# --- train: python -m training, python -m export ---------------------------------------------

FROM base AS train
USER 10001:10001
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "training", "--help"]
COPY --from=train-packages /venv /venv
COPY --from=code /train /app

# --- proxy: Debian's nginx with deploy/nginx, which compose mounts ----------------------------

FROM base AS proxy
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nginx \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
USER 10001:10001
EXPOSE 8443
# Names are looked up where the engine says, which only a running container knows.
CMD ["sh", "-c", "awk '/^nameserver/ { print \"resolver \" $2 \" valid=5s ipv6=off;\"; exit }' \
/etc/resolv.conf > /tmp/resolver.conf && exec /usr/sbin/nginx -e stderr -c /etc/liere/nginx.conf -g 'daemon off;'"]
