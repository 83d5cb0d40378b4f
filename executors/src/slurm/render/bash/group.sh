
# Records the exit code of a task: record_task DIR CODE.
record_task() {
    echo "$job $restart $2" >"$1/slurm.status.new" && mv -f "$1/slurm.status.new" "$1/slurm.status"
}

# Prepares the folder of a task. One that ended well before the job was requeued is not started again: set_up_task TASK.
set_up_task() {
    local dir=${dirs[$1]}
    if [ "$restart" -gt 0 ] && grep -q "^$job [0-9]* 0$" "$dir/slurm.status" 2>/dev/null; then
        codes[$1]=0
        record_task "$dir" 0
        return
    fi
    set_up "$dir"
    # A request to stop the group stands in its own folder.
    rm -f "$dir/cancel"
}

# Waits for all tasks. COUNT is their number; if one fails and SECONDS_LEFT is not empty, the others are ended that many
# seconds later. Sets `code` to the exit code of the first failure: wait_for_tasks COUNT SECONDS_LEFT.
wait_for_tasks() {
    local task own_code running=$1 end='' killed=()
    code=0
    for ((task = 0; task < $1; task++)); do
        [ -z "${codes[task]:-}" ] || running=$((running - 1))
    done
    while [ "$running" -gt 0 ]; do
        for ((task = 0; task < $1; task++)); do
            if [ -n "${codes[task]:-}" ] || kill -0 "${pids[task]}" 2>/dev/null; then
                continue
            fi
            wait "${pids[task]}"
            own_code=$?
            if [ -n "${records[task]}" ]; then
                own_code=$(exit_code "${dirs[task]}" "${records[task]}" "$own_code")
            fi
            # srun that was killed exits with 0.
            if [ "$own_code" -eq 0 ] && { [ "$terminated" -eq 1 ] || [ -n "${killed[task]:-}" ]; }; then
                own_code=143
            fi
            codes[task]=$own_code
            running=$((running - 1))
            record_task "${dirs[task]}" "$own_code"
            echo "neva-run: exit code $own_code of ${dirs[task]}" >&2
            if [ "$own_code" -ne 0 ] && [ "$code" -eq 0 ]; then
                code=$own_code
                failed=${dirs[task]}
                end=${2:+$((SECONDS + $2))}
            fi
        done
        if [ -n "$end" ] && [ "$SECONDS" -ge "$end" ]; then
            end=''
            for ((task = 0; task < $1; task++)); do
                if [ -z "${codes[task]:-}" ]; then
                    # They did not fail themselves.
                    echo "$job TERM" >>"${dirs[task]}/cancel"
                    killed[task]=1
                    kill "${pids[task]}" 2>/dev/null
                fi
            done
        fi
        sleep 1
    done
}
