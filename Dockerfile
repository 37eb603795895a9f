# floradl in a container. docs/docker.md says how to run it, compose.yaml does.
#   docker build -t floradl .
# BASE is any Debian-like image with a Python 3.11 or later, its venv and apt-get.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# An index of one's own; it is for pip, and in no layer of what comes out.
ARG PIP_INDEX_URL
# Debian keeps one version of a package at a time, so a version named here would soon not be found any more.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/*
COPY deploy/docker/requirements.txt deploy/docker/build-requirements.txt /locked/
# Wheels alone: what an sdist is built with is in no lock. pip stays behind: nothing is installed later.
RUN python3 -m venv /opt/build \
 && python3 -m venv --without-pip /opt/floradl \
 && /opt/build/bin/pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes \
      -r /locked/build-requirements.txt \
 && /opt/build/bin/pip --python /opt/floradl/bin/python3 install --no-cache-dir --no-deps --only-binary :all: \
      --require-hashes -r /locked/requirements.txt
COPY . /src
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-index --no-build-isolation -w /wheels /src \
 && /opt/build/bin/pip --python /opt/floradl/bin/python3 install --no-cache-dir --no-deps --no-index /wheels/*.whl \
 && /opt/build/bin/pip --python /opt/floradl/bin/python3 check

FROM ${BASE}
ARG VERSION=0.2.0
ARG REVISION=
LABEL org.opencontainers.image.title="floradl" \
      org.opencontainers.image.description="Brings the media that FLORA techniques generate home" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A process 1 that has no handler yet loses a SIGTERM, and one that is Python collects nobody's orphans: tini
# hands the signal on from the first moment, and reaps what a child of floradl leaves behind.
COPY --from=build /usr/bin/tini-static /usr/local/bin/tini
COPY --from=build /opt/floradl /opt/floradl
COPY deploy/docker/entrypoint /usr/local/bin/entrypoint
ENV PATH=/opt/floradl/bin:$PATH \
    FLORADL_HOME=/data \
    FLORADL_CONFIG=/etc/floradl/config.yaml \
    FLORADL_STATE_DIR=/state \
    PYTHONUNBUFFERED=1
# Slim images of Python come without its compiled modules, and nobody may write them later: what a start and a
# health check import is compiled here. The folders are open to all, since a new volume takes their mode, and
# with --user it is not known whose it will be; sticky, so that what one user keeps there no other replaces. The
# settings are named, so that none are taken from a folder where others may write; a folder of yours goes there.
RUN python3 -c 'import floradl.cli.downloads, floradl.cli.queue, floradl.cli.setup, floradl.daemon.run, floradl.daemon.hooks, floradl.commands.status, floradl.commands.check.command, floradl.commands.get' \
 && mkdir /data /state /etc/floradl \
 && echo '# Mount a folder with a config.yaml in place of this one.' > /etc/floradl/config.yaml \
 && chmod 1777 /data /state
# A number, so that whoever reads a mounted folder outside can name its owner; --user changes it.
USER 1000:1000
WORKDIR /data
VOLUME ["/data", "/state"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=1m --timeout=10s --start-period=30s CMD ["floradl", "status", "--check"]
ENTRYPOINT ["tini", "-s", "--", "entrypoint"]
CMD ["run"]
