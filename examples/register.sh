#!/bin/sh
# Registers a backend with edge-proxy, keeps its lease alive, and takes it off when this script ends.
#
#   EDGEPROXY_API_REGISTER_TOKEN=... examples/register.sh gru-1 web sa 10.50.1.1 8080
#
# EDGEPROXY_API is where the control API listens (http://127.0.0.1:8081). Needs curl.
set -eu

[ $# -eq 5 ] || {
    echo "usage: $0 ID APP REGION IP PORT" >&2
    exit 2
}
id=$1 app=$2 region=$3 ip=$4 port=$5
# It stands in paths.
case $id in
*[!A-Za-z0-9._-]*)
    echo "ID $id: must be letters, digits, dots, underscores and dashes" >&2
    exit 2
    ;;
esac
api=${EDGEPROXY_API:-http://127.0.0.1:8081}/api/v1

# The token goes in by standard input: arguments are there for everybody to see.
ask() {
    printf 'header = "Authorization: Bearer %s"\n' "$EDGEPROXY_API_REGISTER_TOKEN" |
        curl --config - --silent --max-time 10 "$@"
}

# Prints what is answered: how often to send a heartbeat is in it.
register() {
    ask --json "{\"id\":\"$id\",\"app\":\"$app\",\"region\":\"$region\",\"ip\":\"$ip\",\"port\":$port}" \
        "$api/register"
}

leave() {
    trap - EXIT INT TERM
    [ -z "${pause:-}" ] || kill "$pause" 2>/dev/null || true
    status=$(ask --request DELETE --output /dev/null --write-out '%{http_code}' "$api/backends/$id") || status=000
    case $status in
    200 | 404) echo "$id is off" ;;
    *)
        echo "$id could not be taken off: $status" >&2
        exit 1
        ;;
    esac
    exit 0
}

answer=$(register) || answer="no answer from $api"
every=$(printf '%s' "$answer" | sed -n 's/.*"heartbeat_every_secs":\([0-9]*\).*/\1/p')
[ -n "$every" ] || {
    echo "$id was not registered: $answer" >&2
    exit 1
}
trap leave EXIT INT TERM
echo "$id takes traffic; a heartbeat every $every s"
while :; do
    # In the background, so that a signal is heard at once.
    sleep "$every" &
    pause=$!
    wait "$pause"
    status=$(ask --request POST --output /dev/null --write-out '%{http_code}' "$api/heartbeat/$id") || status=000
    case $status in
    200) ;;
    # It is not there any more, or its lease has ended: once more from the start.
    404 | 409 | 410) register >/dev/null || true ;;
    *) echo "heartbeat: $status; again in $every s" >&2 ;;
    esac
done
