# Image of a coordinator: edgefd with the packages that it needs to export bundles, create certificates and serve
# devices. Run this command in the top folder of the repository:
#
#   docker buildx build --file docker/server.Dockerfile --tag edgefd-server .
#
# docker/compose.yaml runs this image with five clients. On a machine without a GPU, let pip prefer the CPU build of
# torch: --build-arg PIP_EXTRA_INDEX_URL=ADDRESS, with the address from torch's installation page. Otherwise the image
# takes several GB.

FROM debian:bookworm-slim AS build
ARG PIP_EXTRA_INDEX_URL
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
COPY . /source
# Install torch first and alone. If torch is installed as a dependency of another package, pip does not prefer the CPU
# build.
RUN python3 -m venv /opt/edgefd \
 && /opt/edgefd/bin/pip install --no-cache-dir --constraint /source/constraints.txt torch \
 && /opt/edgefd/bin/pip install --no-cache-dir --constraint /source/constraints.txt "/source[export,server]" \
 && /opt/edgefd/bin/pip uninstall --yes pip

FROM debian:bookworm-slim
# Volumes are mounted on these folders. A new volume takes the owner of the folder that it covers.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --home-dir /runs --create-home --shell /usr/sbin/nologin edgefd \
 && install --directory --owner 10001 --group 10001 --mode 700 /authority /bundle /certs /devices
COPY --from=build /opt/edgefd /opt/edgefd
USER 10001
WORKDIR /runs
VOLUME /runs
ENTRYPOINT ["/opt/edgefd/bin/edgefd"]
CMD ["--help"]
