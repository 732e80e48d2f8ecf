#!/bin/sh
# Usage: report.sh STATUS [FILE]
#
# Says on standard error what an exit status of execute_dags.py asks for, and shows the output in
# FILE. Nothing is said of a run that went well or was stopped. Ends with STATUS.
# What reaches you by mail or chat: "Being told" in docs/production.md.

status=$1
case $status in
    "" | 0 | 143 | TERM) exit 0 ;;
    1) advice="A DAG failed. Its log says why; run it again when that is mended." ;;
    2) advice="The configuration is wrong. Mend it, then prove it: execute_dags.py check." ;;
    3) advice="The Kite session is dead. Log in (execute_dags.py login), then run again." ;;
    *) advice="The run was ended from outside." ;;
esac

echo "stock_ingestion: exit status $status: $advice" >&2
[ -n "$2" ] && cat "$2" >&2

case $status in
    *[!0-9]*) exit 1 ;;  # systemd gives a signal by its name
    *) exit "$status" ;;
esac
