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

# Ends the command, or the sleep, and then the loop. The signal is not SIGINT, which a shell's
# background commands ignore. It is sent again after 5 s: what just begins can miss it.
end() {
    trap "" TERM INT
    while kill -TERM "$!" 2>/dev/null; do
        polls=25
        while [ $polls -gt 0 ] && kill -0 "$!" 2>/dev/null; do
            sleep 0.2
            polls=$((polls - 1))
        done
    done
    exit "$1"
}
trap "end 143" TERM
trap "end 130" INT

told=0
while :; do
    "$@" &
    wait "$!"
    status=$?
    [ "$status" = "$told" ] || "$(dirname "$0")/report.sh" "$status"
    told=$status
    sleep "$seconds" &
    wait "$!"
done
