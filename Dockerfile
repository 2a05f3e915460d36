# The server's image, with the binary of a release. In the unpacked archive (also target/dist/unpacked after ./dist):
#   docker build -t img-classification:0.1.0 .
# k8s/server.yaml runs it. Dockerfile.classifier builds the classifier's image.

# Only for its C library: the image has the same binary as a host, which is linked to glibc. A static binary would be a second
# program to test, and glibc's static DNS client needs these files anyway.
ARG BASE=debian:bookworm-slim
FROM ${BASE} AS base
COPY img-classification /files/img-classification
# Copies the linked libraries with their paths.
RUN ldd /files/img-classification | grep -o '/[^ ]*' | xargs cp --parents --dereference --target-directory=/files

FROM scratch
COPY --from=base /files /
LABEL org.opencontainers.image.title="img-classification" \
      org.opencontainers.image.description="Image classification as a service on Kubernetes" \
      org.opencontainers.image.licenses="MIT"
# A number, so that Kubernetes can verify runAsNonRoot; distributions do not use it.
USER 10002:10002
EXPOSE 5000
ENTRYPOINT ["/img-classification"]
CMD ["serve"]
