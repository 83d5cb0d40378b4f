
# Waits for a process and returns its exit code. A signal interrupts `wait`, not the process.
wait_for() {
    local code again
    while true; do
        wait "$1"
        code=$?
        [ "$code" -gt 128 ] || break
        if ! kill -0 "$1" 2>/dev/null; then
            wait "$1" 2>/dev/null
            again=$?
            [ "$again" -eq 127 ] || code=$again
            break
        fi
    done
    return "$code"
}
