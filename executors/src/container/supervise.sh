# Starts the processes of a job in its container, waits for them and records their exits. It needs a POSIX shell.
#
# The first process that fails ends the job: the others have `settle` seconds to record their failures, then get SIGTERM,
# and after `grace` seconds SIGKILL. A signal to this script is passed on; a second one kills.
# container.exits: `stop SIGNAL`, `RANK CODE BY_ITSELF`, `late`, and `end` last.

exits=container.exits
ranks='' running=0 failed=0 phase=running deadline=0 now=0 by_itself=1 stop=''

fail() {
    echo "neva-run: $*"
    exit 3
}

# The values of env_from come through a pipe, which is then gone.
read_variables() {
    text=$(timeout 60 cat container.env) || fail "the launcher did not send the values of env_from"
    rm -f container.env
    eval "$text"
    [ "${complete:-}" = yes ] || fail "the launcher was killed while it sent the values of env_from"
    unset text complete
}

# Arguments: RANK LOG FOLDER [NAME=VALUE]... -- COMMAND...
start() {
    rank=$1 log=$2 folder=$3
    shift 3
    (
        cd "$folder" || {
            echo "error: the folder $folder is not in the container"
            echo "help: add it to the executor's volumes"
            exit 126
        }
        while [ "$1" != -- ]; do
            export "$1"
            shift
        done
        shift
        exec "$@"
    ) </dev/null >>"$log" 2>&1 &
    eval "pid_$rank=$!"
    ranks="$ranks $rank"
    running=$((running + 1))
}

send() {
    for rank in $ranks; do
        eval "pid=\$pid_$rank"
        [ -z "$pid" ] || kill -s "$1" "$pid" 2>/dev/null
    done
}

terminate() {
    send "$1"
    phase=terminating by_itself=0 deadline=$((now + 10 * grace + 1))
}

kill_all() {
    send KILL
    phase=killed by_itself=0 deadline=0
}

reap() {
    for rank in $ranks; do
        eval "pid=\$pid_$rank"
        if [ -z "$pid" ] || kill -0 "$pid" 2>/dev/null; then
            continue
        fi
        wait "$pid"
        code=$?
        eval "pid_$rank="
        running=$((running - 1))
        echo "$rank $code $by_itself" >>"$exits"
        if [ "$code" -ne 0 ]; then
            [ "$failed" -ne 0 ] || failed=$code
            case $phase in
            running | ending) phase=failing deadline=$((now + 10 * settle + 1)) ;;
            esac
        elif [ "$phase" = running ] && [ "$exit_timeout" -gt 0 ]; then
            phase=ending deadline=$((now + 10 * exit_timeout + 1))
        fi
    done
}

# Time is counted in tenths of a second.
supervise() {
    while reap && [ "$running" -gt 0 ]; do
        if [ -n "$stop" ]; then
            case $phase in
            terminating) kill_all ;;
            killed) ;;
            *) terminate "$stop" ;;
            esac
            stop=''
        fi
        if [ "$deadline" -gt 0 ] && [ "$now" -ge "$deadline" ]; then
            case $phase in
            ending)
                echo late >>"$exits"
                terminate TERM
                ;;
            failing) terminate TERM ;;
            terminating) kill_all ;;
            esac
        fi
        # A long run is looked at less often.
        if [ "$now" -lt 600 ] || [ "$phase" != running ]; then
            sleep 0.1
            now=$((now + 1))
        else
            sleep 0.5
            now=$((now + 5))
        fi
    done
    echo end >>"$exits"
    exit "$failed"
}

on_signal() {
    echo "stop $1" >>"$exits"
    stop=$2
}
