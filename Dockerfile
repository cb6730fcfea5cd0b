# graphsieve as two images, for any machine of the architecture that builds them:
#
#   docker build --tag graphsieve .                             serving: no torch, no compiler; docs/deploy.md has its size
#   docker build --tag graphsieve-train --target training .     training and pruning
#
# What is installed is written in deploy/requirements, by version and hash. `make image-test` builds this file and runs
# what comes of it, without Docker.

# Any image with Python 3.11 to 3.13 (python3, and its venv module) on Debian. Pin it by digest for builds that repeat.
ARG BASE=python:3.12-slim-bookworm

# ---- all that serving runs, with the compiled loops ----
FROM ${BASE} AS build
# numba keeps machine code under the name of the CPU that it is for. "generic" is what every CPU of the architecture runs,
# so that the loops below are found wherever the image starts.
ENV NUMBA_CPU_NAME=generic \
    NUMBA_CACHE_DIR=/opt/graphsieve/numba \
    PATH=/opt/graphsieve/bin:${PATH}
# Of binutils only `strip` is wanted.
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/graphsieve
WORKDIR /build
COPY deploy/requirements/ requirements/
RUN pip install --no-cache-dir --require-hashes --only-binary=:all: \
        --requirement requirements/serving.txt --requirement requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY pipeline/ pipeline/
COPY producers/ producers/
COPY consumers/ consumers/
# From where it will run, for the cache knows code by its path.
RUN pip install --no-cache-dir --no-deps --no-index --no-build-isolation . && cd / && python3 -m consumers.warm

# ---- what serving can do without ----
FROM build AS trimmed
# What installs packages; tests, sources in C and type stubs; CUDA; symbols that only a debugger reads (of three packages,
# for those of most wheels have been rewritten in a way that `strip` breaks).
RUN pip uninstall --yes setuptools pip \
    && cd $(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
    && find . -type d -name tests -prune -exec rm -rf {} + \
    && find . -type f -regex '.*\.\(c\|cpp\|h\|a\|pyx\|pxd\|pyi\)' -delete \
    && rm -rf numba/cuda numpy/distutils numpy/f2py \
    && find llvmlite lz4 zstandard -type f -name '*.so' -exec strip --strip-unneeded {} +

# ---- serving ----
FROM ${BASE} AS serving
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="graphsieve" \
      org.opencontainers.image.description="Real-time spam scores for every new node of a graph" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV NUMBA_CPU_NAME=generic \
    NUMBA_CACHE_DIR=/opt/graphsieve/numba \
    PATH=/opt/graphsieve/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1
# The base's own pip goes too. Its bytes stay in the base's layer; what is gone is a way to install things.
RUN rm -rf /usr/local/lib/python3*/site-packages/* /usr/local/lib/python3*/ensurepip /usr/local/bin/pip* \
        /usr/lib/python3*/ensurepip /usr/share/python-wheels \
    && useradd --uid 65532 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin graphsieve \
    && install --directory --owner 65532 --group 65532 /state
COPY --from=trimmed /opt/graphsieve /opt/graphsieve
USER 65532:65532
WORKDIR /
# SIGTERM: finish the micro-batch, commit, write a snapshot, leave the group. Give it longer than the knob score.stop.
STOPSIGNAL SIGTERM
# Is the loop alive? Asked only where the port is said by this variable.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 CMD test -z "$GRAPHSIEVE_METRICS_PORT" || \
    python3 -c 'import os, urllib.request as u; u.urlopen("http://127.0.0.1:%s/healthz" % os.environ["GRAPHSIEVE_METRICS_PORT"], timeout=4)'
ENTRYPOINT ["graphsieve"]
CMD ["--help"]

# ---- training and pruning: the same, and PyTorch ----
FROM build AS training
# PyTorch for CPUs is a tenth of the one that brings CUDA's libraries.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --require-hashes --only-binary=:all: --requirement requirements/training.txt \
    && pip install --no-cache-dir --no-deps --only-binary=:all: --index-url ${TORCH_INDEX} \
        --requirement requirements/torch.txt
RUN useradd --uid 65532 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin graphsieve \
    && install --directory --owner 65532 --group 65532 /model
USER 65532:65532
WORKDIR /tmp
LABEL org.opencontainers.image.title="graphsieve-train" \
      org.opencontainers.image.description="Trains and prunes graphsieve's models" \
      org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["graphsieve"]
CMD ["--help"]

# ---- the default: serving ----
FROM serving
