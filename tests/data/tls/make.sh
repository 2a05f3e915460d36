#!/bin/sh
# Creates the certificates and keys in this folder, valid for 100 years. TEST KEYS: public, worthless, never trust them.
# Run once by hand; the files are committed so that the tests need no openssl.
set -eu
cd "$(dirname "$0")"
rm -f ./*.pem
days=36500

ca() { # name, common name
    openssl ecparam -genkey -noout -name prime256v1 -out "$1.key.pem"
    openssl req -x509 -new -key "$1.key.pem" -days $days -subj "/CN=$2" -out "$1.pem" \
        -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign,cRLSign'
}

sign() { # key, issuer, subject, extensions, out
    printf '%s\n' "$4" >extensions.tmp
    openssl req -new -key "$1" -subj "$3" -out request.tmp
    openssl x509 -req -in request.tmp -CA "$2.pem" -CAkey "$2.key.pem" -CAcreateserial -days $days \
        -extfile extensions.tmp -out "$5" 2>/dev/null
}

server() { # name, subject alternative names
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key.pem"
    sign "$1.key.pem" ca "/CN=$1" "subjectAltName=$2
extendedKeyUsage=serverAuth" "$1.pem"
}

client() { # name, issuer; the key exists
    sign "$1.key.pem" "$2" "/CN=$1/O=testers" 'extendedKeyUsage=clientAuth' "$1.pem"
}

ca ca 'test key: server CA'
ca other-ca 'test key: unrelated CA'
ca client-ca 'test key: client CA'
server server 'DNS:localhost,DNS:kubernetes.example,IP:127.0.0.1,IP:127.0.0.2,IP:::1'
server named-server 'DNS:kubernetes.example'

openssl genrsa -traditional -out client-pkcs1.key.pem 2048
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out client-pkcs8.key.pem
openssl ecparam -genkey -name prime256v1 -out client-sec1.key.pem # with a leading EC PARAMETERS block
openssl genpkey -algorithm ed25519 -out client-ed25519.key.pem
for name in client-pkcs1 client-pkcs8 client-sec1 client-ed25519; do client $name client-ca; done

openssl ecparam -genkey -noout -name prime256v1 -out intermediate.key.pem
sign intermediate.key.pem client-ca '/CN=test key: intermediate' 'basicConstraints=critical,CA:TRUE' intermediate.pem
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out client-chain.key.pem
client client-chain intermediate
cat intermediate.pem >>client-chain.pem

# Without extensions openssl creates X.509 version 1, which rustls cannot parse.
openssl ecparam -genkey -noout -name prime256v1 -out client-v1.key.pem
openssl req -new -key client-v1.key.pem -subj '/CN=client-v1/O=testers' -out request.tmp
openssl x509 -req -in request.tmp -signkey client-v1.key.pem -days $days -out client-v1.pem 2>/dev/null

rm -f ./*.tmp ./*.srl ca.key.pem other-ca.key.pem client-ca.key.pem intermediate.key.pem intermediate.pem
