# The service, the training and every other command of `recgpt`, without compilers and without root.
#
#   docker build -t recgpt .                            for a CPU
#   docker build -t recgpt --build-arg EXTRAS=tracing .  with the packages of an extra
#   docker build -t recgpt --build-arg VARIANT=gpu .    with CUDA's torch and Faiss: docker run --gpus all
#
# torch: PyPI's wheel is the CUDA build, gigabytes large. Where a CPU is all there is, point pip at a
# CPU build: --build-arg PIP_EXTRA_INDEX_URL=<an index of CPU builds>, or PIP_FIND_LINKS. The other
# build arguments are pip's own settings, too, for those who reach PyPI through a mirror.

# The load generator (profile `load` of docker-compose.yml). Not built unless it is asked for.
FROM python:3.11-slim-bookworm AS load
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_FIND_LINKS=
WORKDIR /load
COPY constraints.txt ./
RUN python -m venv /opt/load \
 && /opt/load/bin/pip install --no-cache-dir -c constraints.txt locust polars
COPY loadtest/locustfile.py ./
USER 10001:10001
EXPOSE 8089
ENTRYPOINT ["/opt/load/bin/locust", "-f", "locustfile.py"]


FROM python:3.11-slim-bookworm AS builder
ARG VARIANT=cpu
ARG EXTRAS=
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_FIND_LINKS=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/recgpt
# What the code needs: a layer that stays as it is until pyproject.toml or constraints.txt change.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = project['optional-dependencies']; \
more = [package for name in '$EXTRAS'.split() for package in extras[name]]; \
print(*project['dependencies'], *extras['$VARIANT'], *more, sep='\n')" \
      > requirements.txt \
 && /opt/recgpt/bin/pip install -c constraints.txt -r requirements.txt
# The code, in a folder of its own: a small layer over the large one.
COPY *.md LICENSE ./
COPY cli cli
COPY model model
COPY index index
COPY service service
RUN /opt/recgpt/bin/pip install --no-deps --prefix /code .


FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --user-group --no-log-init --no-create-home --home-dir /data recgpt \
 && install -d -o 10001 -g 10001 /data \
 && install -d -o 10001 -g 10001 -m 700 /var/cache/recgpt
COPY --from=builder /opt/recgpt /opt/recgpt
COPY --from=builder /code /opt/recgpt
# /data may be a volume, and the rest read-only: what libraries want to write goes to /tmp.
# OMP_WAIT_POLICY: threads that wait for work sleep. If other containers use the cores as well,
# spinning ones make recalls 30 times slower.
ENV PATH=/opt/recgpt/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/var/cache \
    OMP_WAIT_POLICY=PASSIVE \
    RECGPT_ARTIFACTS=/data/artifacts RECGPT_HOST=0.0.0.0 RECGPT_PORT=8000
WORKDIR /data
USER 10001:10001
# The compiled loops of the service, so that containers start without compiling. On a processor unlike
# this one they are compiled once more, and kept where /var/cache/recgpt can be written.
RUN python -m service.precompile
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"RECGPT_PORT\"]}/healthz', timeout=2)"]
ENTRYPOINT ["recgpt"]
CMD ["serve"]
