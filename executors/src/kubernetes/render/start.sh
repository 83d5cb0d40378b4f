work=/neva/work
stop_file=/neva/pod/stop
message=/dev/termination-log
index=${JOB_COMPLETION_INDEX:-0}
first=$((index * ranks))
terminated=0
cancelled=0
signalled=0

# Ends the pod before its ranks start: fail CLASS MESSAGE.
fail() {
    echo "neva-run: $2" >&2
    echo "fail $1 $2" >"$message"
    exit "$1"
}

# Prints the ranks of this pod.
own_ranks() {
    rank=$first
    while [ "$rank" -lt "$((first + ranks))" ]; do
        echo "$rank"
        rank=$((rank + 1))
    done
}

# Copies the output of RANK to its log, and to the pod's output behind the rank and `|`; `>` if the line has no end.
copy_output() {
    exec 3>>"$dir/logs/rank$1.log"
    while IFS= read -r line; do
        printf '%s\n' "$line" >&3
        printf '%s|%s\n' "$1" "$line"
    done
    if [ -n "$line" ]; then
        printf '%s' "$line" >&3
        printf '%s>%s\n' "$1" "$line"
    fi
    : >"$work/done.$1"
}

# Sends SIGNAL to the ranks that run.
signal_ranks() {
    : >"$work/signalled"
    signalled=1
    for rank in $(own_ranks); do
        if [ ! -e "$work/exit.$rank" ] && [ -s "$work/pid.$rank" ]; then
            kill "-$1" "$(cat "$work/pid.$rank")" 2>/dev/null
        fi
    done
}

# Records whether the launcher asked this pod to stop.
read_stop() {
    if [ "$cancelled" -eq 0 ] && [ -s "$stop_file" ]; then
        cancelled=1
    fi
}

# Prints the failure records that ranks of this pod appended since it started.
records() {
    tail -c "+$((records_from + 1))" "$dir/failures.jsonl" 2>/dev/null | while IFS= read -r record; do
        rank=$(echo "$record" | sed -n 's/^{"class":[0-9]*,"rank":\([0-9]*\),.*/\1/p')
        if [ -n "$rank" ] && [ "$rank" -ge "$first" ] && [ "$rank" -lt "$((first + ranks))" ]; then
            printf '%s\n' "$record"
        fi
    done
}

# Prints the record of the failure that came first, of records on standard input.
first_record() {
    sed -n 's/^\({"class":[0-9]*,"rank":[0-9]*,"step":[^,]*,"unix_ms":\([0-9]*\),.*\)$/\2 \1/p' | sort -n | head -n 1 | sed 's/^[0-9]* //'
}

# Prints the steps and the path of the newest checkpoint.
newest_checkpoint() {
    for state in "$dir"/checkpoints/*/checkpoint.json; do
        steps=$(sed -n 's/.*"steps_done": *\([0-9]*\).*/\1/p' "$state" 2>/dev/null | head -n 1)
        if [ -n "$steps" ]; then
            echo "$steps ${state%/checkpoint.json}"
        fi
    done | sort -n | tail -n 1
}

# Returns true if the ranks saved and stopped on a signal that any of them received.
has_stopped() {
    grep -q '"stopped": *"' "$dir/report.json" 2>/dev/null
}

trap 'terminated=1' TERM
starts=$dir/logs/.starts$index
if ! mkdir -p "$dir/logs" "$work" 2>/dev/null || ! (: >>"$starts") 2>/dev/null; then
    fail 3 "cannot write to $dir: see \`volumes\` and \`security_context\` of the executor"
fi
rm -f "$work"/*

# A new job in the folder keeps the logs of the earlier one apart; a restart of the same job appends.
job=$(cat /neva/pod/job 2>/dev/null)
if [ "$(head -n 1 "$starts" 2>/dev/null)" != "$job" ]; then
    for rank in $(own_ranks); do
        log=$dir/logs/rank$rank.log
        if [ -e "$log" ]; then
            attempt=1
            while [ -e "$dir/logs/attempt-$attempt/rank$rank.log" ]; do
                attempt=$((attempt + 1))
            done
            mkdir -p "$dir/logs/attempt-$attempt" && mv "$log" "$dir/logs/attempt-$attempt/"
        fi
    done
    echo "$job" >"$starts"
fi
echo start >>"$starts"
if [ "$(wc -l <"$starts")" -gt "$((max_restarts + 2))" ]; then
    echo "fail 3 restarted $max_restarts times, which is \`max_restarts\` of the executor" >"$message"
    exit 76
fi
if [ "$index" -eq 0 ]; then
    rm -f "$dir/report.json"
fi
if ! cp "/neva/job/$file" "$dir/.$file.$index" || ! mv -f "$dir/.$file.$index" "$dir/$file"; then
    fail 3 "cannot write to $dir"
fi
records_from=0
if [ -f "$dir/failures.jsonl" ]; then
    records_from=$(wc -c <"$dir/failures.jsonl")
fi
cd "$folder" || fail 3 "cannot enter $folder"

read_stop
if [ "$cancelled" -eq 1 ] || [ "$terminated" -eq 1 ]; then
    echo "neva-run: stopped before the ranks started" >&2
    [ "$cancelled" -eq 1 ] && exit 0
    exit 75
fi

export WORLD_SIZE=$((pods * ranks)) LOCAL_WORLD_SIZE=$ranks MASTER_ADDR="$master_addr" MASTER_PORT="$master_port"
local=0
for rank in $(own_ranks); do
    {
        # The shell becomes the rank, so its number is the rank's.
        RANK=$rank LOCAL_RANK=$local sh -c 'echo "$$" >"$0.new" && mv -f "$0.new" "$0" && exec "$@"' "$work/pid.$rank" "$@" </dev/null 2>&1
        code=$?
        by_itself=1
        if [ -e "$work/signalled" ]; then
            by_itself=0
        fi
        echo "$code $(date +%s) $by_itself" >"$work/exit.$rank.new"
        mv -f "$work/exit.$rank.new" "$work/exit.$rank"
    } | copy_output "$rank" &
    local=$((local + 1))
done

failed_at=
while :; do
    ended=0
    failed=0
    for rank in $(own_ranks); do
        if [ -e "$work/exit.$rank" ]; then
            ended=$((ended + 1))
            read -r code _ <"$work/exit.$rank"
            [ "$code" -eq 0 ] || failed=1
        fi
    done
    [ "$ended" -lt "$ranks" ] || break
    read_stop
    if [ "$signalled" -eq 0 ]; then
        if [ "$cancelled" -eq 1 ]; then
            signal_ranks "$(cat "$stop_file")"
        elif [ "$terminated" -eq 1 ]; then
            signal_ranks TERM
        elif [ "$failed" -eq 1 ]; then
            now=$(date +%s)
            if [ "$now" -ge "$((${failed_at:=$now} + settle))" ]; then
                signal_ranks TERM
                failed_at=$now
            fi
        fi
    elif [ "$failed" -eq 1 ] && [ -n "$failed_at" ] && [ "$(date +%s)" -ge "$((failed_at + grace))" ]; then
        signal_ranks KILL
    fi
    # A signal ends the wait, not the pod.
    sleep 0.2 &
    wait "$!"
done

# The last lines of the ranks; a process that a rank left behind may hold its output open.
tries=0
for rank in $(own_ranks); do
    while [ ! -e "$work/done.$rank" ] && [ "$tries" -lt 50 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
done

failed=0
silent=0
all_done=1
for rank in $(own_ranks); do
    read -r code _ by_itself <"$work/exit.$rank"
    if [ "$code" -ne 0 ]; then
        all_done=0
        if [ "$by_itself" -eq 1 ]; then
            failed=1
            [ -n "$(records | sed -n "/\"rank\":$rank,/p" | head -n 1)" ] || silent=1
            last_code=$code
        fi
    fi
done
own=$(records | grep -v '"by_peer":true' | first_record)
any=${own:-$(records | first_record)}

# Ranks that stopped on a signal exit as if they had failed. The signal may have reached another pod first.
code=0
if [ "$failed" -eq 1 ] && [ -z "$any" ] && has_stopped; then
    failed=0
    tries=0
    while [ "$cancelled" -eq 0 ] && [ "$terminated" -eq 0 ] && [ "$tries" -lt 50 ]; do
        read_stop
        sleep 0.1
        tries=$((tries + 1))
    done
    [ "$cancelled" -eq 1 ] || code=75
fi
if [ "$failed" -eq 1 ] && [ "$kind" = script ]; then
    case $last_code in
        126 | 127) code=3 ;;
        *) code=1 ;;
    esac
elif [ "$failed" -eq 1 ] && [ "$silent" -eq 0 ] && [ -z "$own" ] && [ "$pods" -gt 1 ]; then
    # Another pod has the cause.
    code=75
elif [ "$failed" -eq 1 ] && [ -n "$any" ] && [ "$silent" -eq 0 ]; then
    code=$(echo "$any" | sed 's/^{"class":\([0-9]*\),.*/\1/')
elif [ "$failed" -eq 1 ]; then
    case $last_code in
        1 | 2 | 3 | 4) code=$last_code ;;
        # A Rust program's exit code for a panic.
        101) code=4 ;;
        # A program that is missing, cannot be executed, or lacks a library.
        126 | 127) code=3 ;;
        *) code=1 ;;
    esac
elif [ "$cancelled" -eq 0 ] && [ "$terminated" -eq 1 ] && [ "$all_done" -eq 0 ]; then
    code=75
elif [ "$cancelled" -eq 0 ] && [ "$terminated" -eq 1 ] && [ "$signalled" -eq 1 ] && { [ "$kind" = script ] || has_stopped; }; then
    code=75
fi

# What the launcher cannot read in the folder: the report in the pod's output, the rest in its message.
if [ "$index" -eq 0 ] && [ -f "$dir/report.json" ]; then
    while IFS= read -r line || [ -n "$line" ]; do
        printf '!%s\n' "$line"
    done <"$dir/report.json"
fi
{
    for rank in $(own_ranks); do
        read -r exit_code at by_itself <"$work/exit.$rank"
        echo "exit $rank $exit_code $at $by_itself"
    done
    if [ "$index" -eq 0 ] && [ -d "$dir/checkpoints" ]; then
        echo "checkpoint $(newest_checkpoint)"
    fi
    if [ -n "$any" ] && [ "${#any}" -lt 3000 ]; then
        printf 'record %s\n' "$any"
    fi
} >"$message"
exit "$code"
