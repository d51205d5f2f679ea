# An image of one static binary and nothing else.
FROM scratch
ARG COMMAND
COPY ${COMMAND} /command
ENTRYPOINT ["/command"]
