#!/bin/sh -eu
# ca-certificates: the authorities that Mozilla trusts for TLS servers, in one
# PEM file where OpenSSL (/etc/ssl/cert.pem) and Go look for it.
# shellcheck source=lib.sh
. "$TOOLCHAIN/lib.sh"

unpack ca-certificates mozilla/certdata.txt
mkdir -p "$OUT/etc/ssl/certs"
python3 "$PORT/certdata.py" mozilla/certdata.txt >"$OUT/etc/ssl/certs/ca-certificates.crt"
ln -s certs/ca-certificates.crt "$OUT/etc/ssl/cert.pem"
