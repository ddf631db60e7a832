# One image for every container of docker-compose.yml: the checkout and its pinned requirements, nothing to build with.
FROM python:3.13-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONNOUSERSITE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    OMP_NUM_THREADS=1 MALLOC_ARENA_MAX=2 DJANGO_SETTINGS_MODULE=r3edge_site.settings \
    R3EDGE_RUN_DIR=/run/r3edge R3EDGE_PROCESS_NAME=worker

# With an entry in /etc/passwd: PostgreSQL's initdb refuses a uid without one, should the image run `r3edge up`.
RUN useradd --create-home --uid 10001 --shell /usr/sbin/nologin r3edge \
    && install -d -o r3edge -g r3edge /app /app/var /run/r3edge

# What is optional, by the names that `./r3edge install` lists: docker build --build-arg EXTRAS=sources .
ARG EXTRAS=""

WORKDIR /app
COPY requirements*.txt .
RUN pip install --require-hashes -r requirements.txt \
    && for extra in $EXTRAS; do pip install --require-hashes -r "requirements-$extra.txt" || exit 1; done \
    && python -m compileall -q /usr/local/lib/python3.13/site-packages > /dev/null
COPY --chown=r3edge:r3edge . .

USER r3edge
EXPOSE 8000
CMD ["python", "-m", "uvicorn", "r3edge_site.asgi:application", "--host", "0.0.0.0", "--port", "8000", "--no-server-header"]
