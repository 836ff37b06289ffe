# The service alone: Kafka and Redis are given by address. `docker build -t segstream .`
FROM python:3.13-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir uv
WORKDIR /src
# Exact versions with their hashes, from uv.lock; a layer of its own, because they change rarely.
COPY pyproject.toml uv.lock hatch_build.py README.md LICENSE ./
RUN uv export --locked --no-emit-project --output-file /requirements.txt --quiet
COPY consumers consumers
COPY schemas schemas
COPY segstream segstream
RUN uv build --wheel --out-dir /wheel --quiet

FROM python:3.13-slim
COPY --from=build /requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --require-hashes --requirement /tmp/requirements.txt
COPY --from=build /wheel /tmp/wheel
RUN pip install --no-cache-dir --no-deps /tmp/wheel/*.whl && rm -r /tmp/wheel /tmp/requirements.txt

RUN useradd --create-home --uid 10001 segstream
USER segstream
WORKDIR /home/segstream
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["segstream"]
