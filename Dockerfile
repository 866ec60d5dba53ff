# An image with the program and nothing else: no shell, not root. The configuration and the secrets are mounted at /etc/mailbell.
#
#     docker build -t mailbell .
#     docker run -v /etc/mailbell:/etc/mailbell:ro -v mailbell:/var/lib/mailbell -p 8080:8080 mailbell
FROM golang:1.26 AS build
WORKDIR /src
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o /mailbell ./cmd/mailbell && mkdir -m 0700 /state

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /mailbell /mailbell
COPY --from=build --chown=65532:65532 /state /var/lib/mailbell
USER 65532:65532
VOLUME /var/lib/mailbell
HEALTHCHECK --interval=30s --timeout=5s CMD ["/mailbell", "healthy", "--config", "/etc/mailbell/mailbell.yaml"]
ENTRYPOINT ["/mailbell"]
CMD ["run", "--config", "/etc/mailbell/mailbell.yaml"]
