# syntax=docker/dockerfile:1
# Tributary's programs in a small image without a compiler, a shell user or a secret.
#   docker build -t tributary .                                    the aggregator, the sites' clients and `trib`
#   docker build -t tributary-chaos --target chaos .               the same with `tc`, for docker-compose's profile chaos
#   docker build -t tributary:gpu . --build-arg TRIBUTARY_CUDA=ON \
#     --build-arg BUILD_BASE=nvidia/cuda:12.6.3-devel-ubuntu24.04 --build-arg BASE=nvidia/cuda:12.6.3-runtime-ubuntu24.04
# BASE and BUILD_BASE must be of one distribution: what the programs link is asked of the one and installed in the other.
ARG BASE=debian:bookworm-slim
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS build
ARG TRIBUTARY_CUDA=OFF
# Compilers at once: 0 stands for one a processor.
ARG JOBS=0
WORKDIR /src
# First only what names the packages, so that a changed source does not install them again.
COPY dev ./
RUN ./dev deps && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cmake -G Ninja -B /build -DCMAKE_BUILD_TYPE=Release -DTRIBUTARY_TESTS=OFF -DTRIBUTARY_BENCHMARKS=OFF \
      -DTRIBUTARY_FAILPOINTS=OFF -DTRIBUTARY_CUDA=${TRIBUTARY_CUDA} \
      -DCMAKE_CXX_FLAGS="-ffile-prefix-map=/src=." \
    && cmake --build /build --parallel "$([ "${JOBS}" -gt 0 ] && echo "${JOBS}" || nproc)" \
         --target trib trib-server trib-client \
    && deploy/docker/collect.sh /build/bin /out

# ---- runtime: everything from here on is also what tests/deploy builds, around programs that are already there ----
FROM ${BASE} AS runtime
COPY --from=build /out/packages /tmp/packages
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive xargs apt-get install -y -qq --no-install-recommends </tmp/packages \
    && rm -rf /tmp/packages /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/* \
    && groupadd --gid 10001 tributary \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/tributary --shell /usr/sbin/nologin tributary \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/tributary \
    && install -d -o 10001 -g 10001 -m 0700 /run/tributary
COPY --from=build /out/bin/ /usr/local/bin/
COPY deploy/docker/*.sh /usr/local/libexec/tributary/
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tributary" \
      org.opencontainers.image.description="Federated learning with a privacy budget that is enforced" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV TRIBUTARY_ROLE=none
USER 10001:10001
WORKDIR /var/lib/tributary
# All that is ever written lies here: run with --read-only, and --tmpfs /tmp.
VOLUME ["/var/lib/tributary"]
# 7443: the sites' mutual TLS; 7480: the operators' page and metrics
EXPOSE 7443 7480
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/local/libexec/tributary/health.sh"]
ENTRYPOINT ["/usr/local/libexec/tributary/entrypoint.sh"]
CMD ["help"]

# ---- chaos: for docker-compose's profile of that name only ----
FROM runtime AS chaos
USER 0:0
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends iproute2 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/*
USER 10001:10001

# What `docker build` without a target makes.
FROM runtime
