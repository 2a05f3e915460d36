# The server's image, of the binary of a release: in the unpacked archive (./dist leaves it unpacked, too, and says where)
#   docker build -t img-classification:0.1.0 .
# k8s/server.yaml runs it. The classifier's image is Dockerfile.classifier's.

# Only lends its C library: the binary is the very one that runs on hosts, which is linked to glibc. A static one would be a second
# program to test, and glibc's static look-up of names needs these files none the less.
ARG BASE=debian:bookworm-slim
FROM ${BASE} AS base
COPY img-classification /files/img-classification
# What the binary is linked to, with the paths that it has here.
RUN ldd /files/img-classification | grep -o '/[^ ]*' | xargs cp --parents --dereference --target-directory=/files

FROM scratch
COPY --from=base /files /
LABEL org.opencontainers.image.title="img-classification" \
      org.opencontainers.image.description="Image classification as a service on Kubernetes" \
      org.opencontainers.image.licenses="MIT"
# A number, so that Kubernetes can tell that it is not root (runAsNonRoot); of no user of the usual systems.
USER 10002:10002
EXPOSE 5000
ENTRYPOINT ["/img-classification"]
CMD ["serve"]
