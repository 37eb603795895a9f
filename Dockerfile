# floradl in a container: mount a folder at /data, and drop job files into /data/inbox.
#   docker build -t floradl .
#   docker run -d --name floradl -v "$PWD/flora:/data" -v "$PWD/flora_api_key:/run/secrets/flora_api_key:ro" floradl
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
COPY . /src
RUN python -m venv /opt/floradl \
 && /opt/floradl/bin/pip install --no-cache-dir --constraint /src/constraints.txt "/src[simulator]"

FROM ${BASE}
COPY --from=build /opt/floradl /opt/floradl
ENV PATH=/opt/floradl/bin:$PATH \
    FLORADL_HOME=/data \
    PYTHONUNBUFFERED=1
# A fixed number, so that files on a mounted folder have an owner that can be named; --user changes it.
RUN mkdir /data && chown 1000:1000 /data
USER 1000:1000
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=1m --timeout=10s --start-period=30s CMD ["floradl", "status", "--check"]
# floradl starts no children and ends by itself on SIGTERM: there is nothing for an init to do.
ENTRYPOINT ["floradl"]
CMD ["run"]
