# Runs what is due, again and again; docs/docker.md has the steps.
FROM python:3.13-slim

RUN useradd --uid 10001 --no-create-home --home-dir /opt/stock_ingestion stock_ingestion
WORKDIR /opt/stock_ingestion
COPY requirements-run.lock .
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
    --require-hashes -r requirements-run.lock
COPY . .
# The folder itself is for the .env that `login` writes; the code stays root's.
RUN mkdir logs archive && chown 10001 . logs archive
USER 10001
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
VOLUME ["/opt/stock_ingestion/logs", "/opt/stock_ingestion/archive"]
CMD ["deploy/loop.sh", "600", "python", "execute_dags.py", "--due"]
