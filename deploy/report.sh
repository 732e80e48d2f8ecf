#!/bin/sh
# Usage: report.sh STATUS [FILE]
#
# Says on standard error what an exit status of execute_dags.py asks for, and shows the output in
# FILE. STATUS is a number, or the name of a signal as systemd gives it. Ends with STATUS, or 1 for a
# name. Of a run that went well or was stopped by SIGTERM nothing is said: it ends with 0 then.
# What reaches you by mail or chat: "Being told" in docs/production.md.

status=$1
case $status in
    "" | 0 | 143 | TERM) exit 0 ;;
    1) advice="A DAG failed. Its log says why; run it again when that is mended." ;;
    2) advice="The configuration is wrong. Mend it, then prove it: execute_dags.py check." ;;
    3) advice="The Kite session is dead. Log in (execute_dags.py login), then run again." ;;
    4) advice="It cannot be known how fresh the rows are. What is lacking: execute_dags.py check." ;;
    126) advice="The program may not be executed. Look at the rights of .venv/bin/python." ;;
    127) advice="The program was not found. Is .venv there? The README says how to install it." ;;
    129 | HUP) advice="SIGHUP: the terminal was closed. Run it again." ;;
    130 | INT) advice="SIGINT: somebody pressed Ctrl-C. Run it again." ;;
    137 | KILL) advice="SIGKILL: killed. Was the memory full? Then dmesg says so." ;;
    1[3-8][0-9] | 19[0-2]) advice="Signal $((status - 128)) ended it." ;;
    2[0-4][0-9]) advice="systemd could not start it: systemctl status stock-ingestion." ;;
    *[!0-9]*) advice="SIG$status ended it." ;;
    *) advice="No exit status of execute_dags.py: see its output." ;;
esac

echo "stock_ingestion: exit status $status: $advice" >&2
[ -n "$2" ] && cat "$2" >&2

case $status in
    *[!0-9]*) exit 1 ;;  # the name of a signal
    *) exit "$status" ;;
esac
