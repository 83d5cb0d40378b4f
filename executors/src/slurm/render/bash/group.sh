
# Waits for all tasks. COUNT is their number; if one fails and SECONDS_LEFT is not empty, the others are ended that many
# seconds later. Sets `code` to the exit code of the first failure: wait_for_tasks COUNT SECONDS_LEFT.
wait_for_tasks() {
    local task own running=$1 end=''
    code=0
    while [ "$running" -gt 0 ]; do
        for ((task = 0; task < $1; task++)); do
            if [ -n "${codes[task]:-}" ] || kill -0 "${pids[task]}" 2>/dev/null; then
                continue
            fi
            wait "${pids[task]}"
            own=$?
            if [ -n "${records[task]}" ]; then
                own=$(exit_code "${dirs[task]}" "${records[task]}" "$own")
            fi
            codes[task]=$own
            running=$((running - 1))
            echo "$job $restart $own" >"${dirs[task]}/slurm.status.new" && mv -f "${dirs[task]}/slurm.status.new" "${dirs[task]}/slurm.status"
            echo "neva-run: exit code $own of ${dirs[task]}" >&2
            if [ "$own" -ne 0 ] && [ "$code" -eq 0 ]; then
                code=$own
                failed=${dirs[task]}
                end=${2:+$((SECONDS + $2))}
            fi
        done
        if [ -n "$end" ] && [ "$SECONDS" -ge "$end" ]; then
            end=''
            for ((task = 0; task < $1; task++)); do
                [ -n "${codes[task]:-}" ] || kill "${pids[task]}" 2>/dev/null
            done
        fi
        sleep 1
    done
}
