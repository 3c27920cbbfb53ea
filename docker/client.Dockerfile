# Image of a device in a federation: edgefd-client, without torch. Run these commands in the top folder of the
# repository:
#
#   docker buildx build --platform linux/arm64,linux/amd64 --file docker/client.Dockerfile --tag edgefd-client .
#   docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges \
#     --volume edgefd-state:/state --volume ./bundle:/bundle:ro --volume ./data:/data:ro --volume ./exchange:/exchange \
#     edgefd-client run --bundle /bundle --data /data/client-000.npz --state /state --exchange /exchange --client 0

FROM debian:bookworm-slim AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN python3 -m venv /opt/edgefd \
 && /opt/edgefd/bin/pip install --no-cache-dir --constraint /source/constraints.txt "/source[client]" \
 && /opt/edgefd/bin/pip uninstall --yes pip setuptools

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --home-dir /state --create-home --shell /usr/sbin/nologin edgefd
COPY --from=build /opt/edgefd /opt/edgefd
USER 10001
WORKDIR /state
VOLUME /state
ENTRYPOINT ["/opt/edgefd/bin/edgefd-client"]
CMD ["--help"]
