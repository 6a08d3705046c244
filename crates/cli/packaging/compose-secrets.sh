#!/usr/bin/env bash
# Makes what compose.yaml needs below ./secrets: a certificate authority of one's own, certificates of
# dealer and server, and the key by which the dealer knows the server. Containers run as user 65532,
# who must be able to read them: run this as root, or the files are readable by everyone.
set -euo pipefail
cd "$(dirname "$0")"
if [ -e secrets ]; then
    echo "there is a folder secrets already: keys are not made twice" >&2
    exit 1
fi
umask 077
mkdir secrets
cd secrets
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
    -subj "/CN=marill compose" -addext "basicConstraints=critical,CA:TRUE" \
    -addext "keyUsage=critical,keyCertSign" -keyout authority.key -out authority.pem 2>/dev/null
certificate() {
    local name=$1 key=$2
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" \
        -keyout "$key" -out "$name.csr" 2>/dev/null
    openssl x509 -req -in "$name.csr" -CA authority.pem -CAkey authority.key -CAcreateserial \
        -days 365 -out "$name.pem" -extfile <(printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth\n' "$name") 2>/dev/null
    rm "$name.csr"
}
certificate dealer dealer.key
certificate server server-tls.key
openssl rand -hex 32 >server.key
# Nobody needs to sign with it again.
rm authority.key
if ! chown 65532:65532 ./* 2>/dev/null; then
    chmod 644 ./*
    echo "not root: the files are readable by everyone on this machine" >&2
fi
chmod 755 .
ls -l
