#!/bin/sh
# Usage: loop.sh SECONDS COMMAND [ARGUMENT ...]
#
# Runs the command again and again, SECONDS after it has ended: cron for a container. What an exit
# status asks for is said when it is another than before. SIGTERM and SIGINT end the loop at once;
# a run that is under way gets SIGTERM and is waited for. Ends with 143 or 130.

case $1 in
    "" | *[!0-9]* | 0*)
        echo "loop.sh: expected SECONDS, 1 or more, and a command; got: $*" >&2
        exit 2
        ;;
esac
seconds=$1
shift
stopped=

# Not SIGINT, which a shell's background commands ignore.
pass_on() { kill -TERM "$child" 2>/dev/null; }

# Runs its arguments to their end, signal or not; $status is how they ended.
await() {
    "$@" &
    child=$!
    [ -z "$stopped" ] || pass_on  # the signal came before there was a child
    wait "$child"
    status=$?
    while kill -0 "$child" 2>/dev/null; do  # it was the wait alone that a signal ended
        wait "$child"
        status=$?
    done
}

trap 'stopped=143; pass_on' TERM
trap 'stopped=130; pass_on' INT

told=0
while [ -z "$stopped" ]; do
    await "$@"
    [ -n "$stopped" ] && break
    [ "$status" = "$told" ] || "$(dirname "$0")/report.sh" "$status"
    told=$status
    await sleep "$seconds"
done
exit "$stopped"
