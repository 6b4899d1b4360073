#!/usr/bin/env bash
# Motience with curl: register, log in, subscribe, send, receive, resume.
#
# Start a server first (`cargo run --release`), then run `examples/curl.sh`. AP_URL, SM_URL and DSM_URL name services that are elsewhere.
set -euo pipefail
ap=${AP_URL:-http://localhost:3001} sm=${SM_URL:-http://localhost:3002} dsm=${DSM_URL:-http://localhost:3003}

# An answer is JSON on one line. This takes one member of it, a text or a number.
member() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }

# post URL BODY [CURL OPTIONS]
post() { curl --silent --show-error --fail-with-body -H 'Content-Type: application/json' -d "$2" "${@:3}" "$1"; }

# Reads records after a cursor until COUNT have come, and leaves the last one's cursor in $cursor.
receive() {
    local count=$1 line
    exec {stream}< <(exec curl --silent --no-buffer -H "Authorization: Bearer $consumer" -H 'Accept: application/x-ndjson' \
        "$dsm/stream?producers=$producer_id&from=$cursor")
    local reader=$!
    while ((count > 0)) && IFS= read -r -t 20 -u "$stream" line; do
        # A line without a record id is a notice: where the stream begins, or what retention removed.
        [[ $line == *'"record_id"'* ]] || continue
        echo "received $line"
        cursor=$(member cursor <<<"$line")
        count=$((count - 1))
    done
    kill "$reader"
    exec {stream}<&-
    ((count == 0)) || { echo "nothing came within 20 s" >&2; exit 1; }
}

send() {
    post "$dsm/data" "{\"device_id\":\"rpi_001\",\"data\":{\"temperature\":$1}}" -H "Authorization: Bearer $producer" >/dev/null
    echo "sent $1"
}

for role in producer consumer; do
    status=$(curl --silent --output /dev/null --write-out '%{http_code}' -H 'Content-Type: application/json' \
        -d "{\"username\":\"curl-$role\",\"password\":\"pass123\",\"role\":\"$role\"}" "$ap/register")
    # 409: the name is taken, by an earlier run.
    [[ $status == 201 || $status == 409 ]] || { echo "the registration was answered $status" >&2; exit 1; }
done
login=$(post "$ap/login" '{"username":"curl-producer","password":"pass123"}')
producer=$(member access_token <<<"$login") producer_id=$(member user_id <<<"$login")
consumer=$(post "$ap/login" '{"username":"curl-consumer","password":"pass123"}' | member access_token)

post "$sm/subscribe" "{\"producer_id\":$producer_id}" -H "Authorization: Bearer $consumer" >/dev/null
echo "subscribed to producer $producer_id"

send 20.5
send 21.5
cursor=earliest
receive 2

# The consumer is away now. A record that is sent meanwhile waits in the log.
send 22.5
echo "resuming after $cursor"
receive 1
