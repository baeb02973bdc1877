# chiasm for CPUs, with the page, the REST API and speech. Collections, models and files are mounted at /data.
FROM python:3.13-slim-trixie

COPY pyproject.toml README.md LICENSE constraints.txt /src/
COPY chiasm /src/chiasm
RUN pip install --no-cache-dir --constraint /src/constraints.txt "/src[serve,speech]" \
    && useradd --uid 1000 --create-home chiasm \
    && mkdir -p /data /cache \
    && chown chiasm /data /cache

ENV CHIASM_CACHE=/cache
USER 1000
WORKDIR /data
VOLUME ["/data", "/cache"]
EXPOSE 8265
ENTRYPOINT ["chiasm"]
CMD ["--help"]
