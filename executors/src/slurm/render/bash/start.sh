job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}
# The last task of an array has the number of the array itself, so a task is named by both numbers.
# shellcheck disable=SC2034 # not every script names it
own=$job${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
restart=${SLURM_RESTART_COUNT:-0}
terminated=0
requeued=0
helpers=''

# Ends the job before its processes start: fail CODE MESSAGE.
fail() {
    echo "neva-run: $2" >&2
    exit "$1"
}

# Records the exit code for a launcher that asks after Slurm has forgotten the job. A requeued job has not ended.
# shellcheck disable=SC2317 # the shell calls it when it exits
record_end() {
    local code=$? helper
    for helper in $helpers; do
        kill "$helper" 2>/dev/null
    done
    if [ "$requeued" -eq 0 ] && [ -n "$dir" ]; then
        echo "$job $restart $code" >"$dir/slurm.status.new" && mv -f "$dir/slurm.status.new" "$dir/slurm.status"
    fi
}

# Removes what an earlier start left, so that it is not taken for that of this one. Logs are appended to: set_up DIR.
set_up() {
    mkdir -p "$1/logs" || fail 3 "cannot write to $1 on $(hostname)"
    rm -f "$1/slurm.status" "$1/report.json"
}

# Returns true if the launcher asked this job to stop.
is_cancelled() {
    grep -q "^${job}[_+ ]" "$dir/cancel" 2>/dev/null
}

# Prints the length of the failure records in DIR.
records_length() {
    if [ -f "$1/failures.jsonl" ]; then
        wc -c <"$1/failures.jsonl"
    else
        echo 0
    fi
}

trap record_end EXIT
# Slurm also signals the processes of the ranks, which save and exit.
trap 'terminated=1' TERM
