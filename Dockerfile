# The API, the projector and all command lines; which of them is said when it is run.
# The embedded database is not in it: name a replica set in CASEBOOK_MONGODB_URL.
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 CASEBOOK_DATA_DIR=/data
WORKDIR /casebook

COPY requirements/server.txt requirements/server.txt
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/server.txt

COPY pyproject.toml ./
COPY domain domain
COPY eventstore eventstore
COPY projections projections
COPY api api
COPY scripts scripts

RUN useradd --system --uid 10001 casebook && mkdir /data /keys && chown casebook /data /keys
USER casebook
VOLUME ["/data", "/keys"]
EXPOSE 8000

# SIGTERM lets requests that are under way end; they are given ten seconds.
STOPSIGNAL SIGTERM
CMD ["python", "-m", "scripts.serve"]
